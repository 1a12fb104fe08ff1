"""Which vectors the clusters are learnt from; all masks get a cluster afterwards, photo by photo, on the workers.

Shapes: ``M`` masks of all photos; ``n`` of them that are learnt from; ``E`` channels of a vector; ``K`` clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from u2seg.errors import DataError
from u2seg.pseudo.centres import count_distinct
from u2seg.pseudo.intermediate import Intermediate, read_arrays

logger = logging.getLogger(__name__)

MOST_PER_CLUSTER = 1000
"""Vectors a cluster that are learnt from at most: 0.9 GB for K = 300 and 768 channels, however many masks there are."""


def vectors_to_learn_from(
    masks: Intermediate, keys: Sequence[str], count: int, min_score: float, seed: int
) -> np.ndarray:
    """Vectors float32 (n, E) of masks that score enough, drawn by ``seed`` where there are too many to need all.

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
    by_photo = [read_arrays(masks.path(key), "scores")["scores"] for key in keys]
    photo = np.repeat(np.arange(len(keys)), [len(scores) for scores in by_photo])
    scores = np.concatenate([np.zeros(0, np.float32), *by_photo])
    if not len(scores):
        raise DataError("no masks were found in any photo, so there is nothing to cluster")
    sure = scores >= min_score
    vectors = _read(masks, keys, photo, _draw(np.flatnonzero(sure), count * MOST_PER_CLUSTER, seed))
    if sure.all() or count_distinct(vectors, count) >= count:
        return vectors
    logger.warning(
        "clusters: learnt from all %d masks, since only %d reach U2SEG.CLUSTERS.MIN_SCORE %g, too few for %d clusters",
        len(sure),
        sure.sum(),
        min_score,
        count,
    )
    return _read(masks, keys, photo, _draw(np.arange(len(scores)), count * MOST_PER_CLUSTER, seed))


def _draw(indices: np.ndarray, most: int, seed: int) -> np.ndarray:
    """``indices`` int64 (n,), or ``most`` of them, ascending."""
    if len(indices) <= most:
        return indices
    logger.info("clusters: learnt from %d of %d masks, drawn by U2SEG.SEED", most, len(indices))
    return np.sort(np.random.default_rng(seed).choice(indices, most, replace=False))


def _read(masks: Intermediate, keys: Sequence[str], photo: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Vectors float32 (n, E) of the masks ``chosen`` int64 (n,) of all; ``photo`` int64 (M,) tells whose each is."""
    rows = []
    for index in np.unique(photo[chosen]):
        here = slice(*np.searchsorted(photo[chosen], (index, index + 1)))
        vectors = read_arrays(masks.path(keys[index]), "vectors")["vectors"]
        rows.append(vectors[chosen[here] - np.searchsorted(photo, index)])
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
