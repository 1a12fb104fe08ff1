"""What is fitted once over the whole set: the clusters of the masks, and the stuff segmenter.

Shapes: ``M`` masks of all photos; ``D`` channels of an embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.images import Photo
from u2seg.pseudo import parts
from u2seg.pseudo.centres import count_distinct
from u2seg.pseudo.stage_files import mask_file
from u2seg.pseudo.store import OutputDirectory
from u2seg.runtime import bounded_threads

logger = logging.getLogger(__name__)


def read_embeddings(output: OutputDirectory, photos: Sequence[Photo]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings float32 (M, D) of all masks, their scores float32 (M,), and how many each photo has, int64."""
    vectors, scores = [], [np.zeros(0, np.float32)]
    for photo in photos:
        with np.load(mask_file(output, photo)) as file:
            vectors.append(file["embeddings"])
            scores.append(file["scores"])
    counts = np.array([len(rows) for rows in vectors], np.int64)
    filled = [rows for rows in vectors if len(rows)]
    return (np.concatenate(filled) if filled else np.zeros((0, 0), np.float32)), np.concatenate(scores), counts


def cluster_masks(
    settings: parts.Settings, embeddings: np.ndarray, scores: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fit the clusterer on ``embeddings`` float32 (M, D), or take the centres of an earlier run.

    Masks whose score, of ``scores`` float32 (M,), is under ``CLUSTERS.MIN_SCORE`` take no part in the fit, unless too
    few would be left.

    Returns:
        What the clusterer has learnt, and the cluster of each mask, int64 (M,).

    Raises:
        DataError: there is no mask.
    """
    if not len(embeddings):
        raise DataError("no masks were found in any photo, so there is nothing to cluster")
    clusterer = parts.build_clusterer(settings)
    with bounded_threads(settings["EXECUTOR"]["THREADS"]):
        if settings["CLUSTERS"]["REUSE"]:
            clusterer.load_state(earlier_state(settings, "clusters.npz"))
        else:
            clusterer.fit(embeddings[_worth_fitting(settings, embeddings, scores)])
        return clusterer.state(), clusterer.predict(embeddings)


def _worth_fitting(settings: parts.Settings, embeddings: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """bool (M,), masks that clusters are learnt from: those of enough score, or all where these are too few."""
    wanted, lowest = settings["NUM_THINGS"], settings["CLUSTERS"]["MIN_SCORE"]
    sure: np.ndarray = scores >= lowest
    if sure.all() or count_distinct(embeddings[sure], wanted) >= wanted:
        return sure
    logger.warning(
        "clusters: learnt from all %d masks, since only %d reach U2SEG.CLUSTERS.MIN_SCORE %g, too few for %d clusters",
        len(sure),
        sure.sum(),
        lowest,
        wanted,
    )
    return np.ones_like(sure)


def sample_for_stuff(settings: parts.Settings, photos: Sequence[Photo]) -> list[Photo]:
    """The photos that the stuff segmenter is fitted on: ``STUFF.FIT_IMAGES`` drawn by the run's seed, in order."""
    order = np.random.default_rng(settings["SEED"]).permutation(len(photos))
    return [photos[index] for index in sorted(order[: settings["STUFF"]["FIT_IMAGES"]])]


def fit_stuff(settings: parts.Settings, features: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """What the stuff segmenter learns from ``features``, one float32 (D, h, w) a photo."""
    segmenter = parts.build_stuff_segmenter(settings, "cpu")
    with bounded_threads(settings["EXECUTOR"]["THREADS"]):
        return segmenter.fit(features).state()


def earlier_state(settings: parts.Settings, name: str) -> dict[str, np.ndarray]:
    """Arrays that the run which ``CLUSTERS.REUSE`` names has saved.

    Raises:
        UsageError: they can't be read.
    """
    directory = settings["CLUSTERS"]["REUSE"]
    path = OutputDirectory(directory).root / name
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"U2SEG.CLUSTERS.REUSE {directory!r}: {name} can't be read ({error})") from error
