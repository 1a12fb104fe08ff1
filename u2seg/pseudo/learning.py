"""Learn the clusters; masks get theirs afterwards, photo by photo, on the workers.

Shapes: ``M`` masks of all photos that have a vector; ``n`` of them that are learnt from; ``E`` channels of a vector,
``D`` of a feature; ``K`` clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from u2seg.errors import DataError
from u2seg.pseudo.clusters import count_distinct, unit_length
from u2seg.pseudo.intermediate import Intermediate, read_arrays

logger = logging.getLogger(__name__)

MOST_PER_CLUSTER = 1000
"""Vectors a cluster that are learnt from at most: 0.9 GB for K = 300 and 768 channels, however many masks there are."""
MEAN_CENTRES = "mean_centres"
"""Entry of ``clusters.npz`` beside the clusterer's state: `mean_centres`."""


class Sample(NamedTuple):
    """Masks that clusters are learnt from."""

    vectors: np.ndarray
    """float32 (n, E)"""
    means: np.ndarray
    """float32 (n, D) mean features; (n, 0) where every mask has a vector"""


def mean_centres(means: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Mean of ``means`` float32 (n, D) in each cluster ``ids`` int64 (n,), float32 (K, D), rows of length 1 or 0."""
    centres = np.zeros((count, means.shape[1]), np.float32)
    np.add.at(centres, ids, means)
    return unit_length(centres)


def sample_masks(masks: Intermediate, keys: Sequence[str], count: int, min_score: float, seed: int) -> Sample:
    """Masks that score enough, drawn by ``seed`` where there are too many to need all.

    Args:
        masks: intermediate files with scores and vectors.
        keys: of the photos, in order.
        count: K.
        min_score: masks below it are learnt from only where the others have fewer than K distinct vectors.
        seed: of the draw.

    Raises:
        DamagedFileError: a file is damaged.
        DataError: there are no masks.
    """
    arrays = (read_arrays(masks, key, "scores", "embedded") for key in keys)
    by_photo = [photo["scores"][photo["embedded"]] for photo in arrays]
    photo = np.repeat(np.arange(len(keys)), [len(scores) for scores in by_photo])
    scores = np.concatenate([np.zeros(0, np.float32), *by_photo])
    if not len(scores):
        raise DataError("no masks were found in any photo, so there is nothing to cluster")
    sure = scores >= min_score
    sample = _read(masks, keys, photo, _draw(np.flatnonzero(sure), count * MOST_PER_CLUSTER, seed))
    if sure.all() or count_distinct(sample.vectors, count) >= count:
        return sample
    few = "only %d reach U2SEG.CLUSTERS.MIN_SCORE %g, too few for %d clusters"
    logger.warning(f"clusters: learnt from all %d masks, since {few}", len(sure), sure.sum(), min_score, count)
    return _read(masks, keys, photo, _draw(np.arange(len(scores)), count * MOST_PER_CLUSTER, seed))


def _draw(indices: np.ndarray, most: int, seed: int) -> np.ndarray:
    """``indices`` int64 (n,), or ``most`` of them, ascending."""
    if len(indices) <= most:
        return indices
    logger.info("clusters: learnt from %d of %d masks, drawn by U2SEG.SEED", most, len(indices))
    return np.sort(np.random.default_rng(seed).choice(indices, most, replace=False))


def _read(masks: Intermediate, keys: Sequence[str], photo: np.ndarray, chosen: np.ndarray) -> Sample:
    """The masks ``chosen`` int64 (n,) of all with a vector; ``photo`` int64 (M,) tells whose each is."""
    vectors = means = np.zeros((0, 0), np.float32)
    photos, starts = np.unique(photo[chosen], return_index=True)
    for index, start, end in zip(photos, starts, [*starts[1:], len(chosen)], strict=True):
        arrays = read_arrays(masks, keys[index], "vectors", "embedded", "means")
        rows = chosen[start:end] - np.searchsorted(photo, index)
        if not start:  # filled as they are read, so that they are in memory once
            vectors = np.empty((len(chosen), arrays["vectors"].shape[1]), np.float32)
            means = np.empty((len(chosen), arrays["means"].shape[1]), np.float32)
        vectors[start:end] = arrays["vectors"][rows]
        means[start:end] = arrays["means"][arrays["embedded"][rows]]
    return Sample(vectors, means)
