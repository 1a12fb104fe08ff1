"""Centres by k-means, the nearest of them, and how none is left without vectors. Pure functions.

Shapes: ``M`` vectors; ``D`` channels; ``K`` centres.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from u2seg.errors import UsageError

CHUNK = 4096
"""Vectors that distances are taken of at a time, to bound memory."""
TRIAL = 500
"""Vectors a centre on which starts of k-means are compared: as good as all of them, at a quarter of the time."""

MOST_BOUNDS = 50_000_000
"""Bounds float32 on distances, one for each vector and centre, that k-means may keep: 200 MB. With them (Elkan, ICML
2003) it takes the same steps, but few distances: a third of the time for 100,000 vectors of 384 channels."""


def learn_centres(
    X: np.ndarray, count: int, seed: int, n_init: int, max_iter: int, mini_batch: bool = False
) -> np.ndarray:
    """Centres float32 (K, D) of scikit-learn's k-means over ``X`` float32 (M, D); some may have no vectors.

    Unless in mini-batches, the best of the ``n_init`` starts is chosen on `TRIAL` vectors a centre, and refined on all.
    """
    from sklearn import cluster
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    common: dict[str, Any] = {"n_clusters": count, "random_state": seed, "n_init": n_init, "max_iter": max_iter}
    if not mini_batch and count > 1 and len(X) * count <= MOST_BOUNDS:
        common["algorithm"] = "elkan"
    # Threads sum in any order: one thread gives the same last digit every time.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of empty clusters, for `fill_empty`
        if mini_batch:
            model = cluster.MiniBatchKMeans(batch_size=max(CHUNK, 4 * count), **common).fit(X)
        elif len(X) <= TRIAL * count:
            model = cluster.KMeans(**common).fit(X)
        else:
            drawn = np.sort(np.random.default_rng(seed).choice(len(X), TRIAL * count, replace=False))
            start = cluster.KMeans(**common).fit(X[drawn]).cluster_centers_
            model = cluster.KMeans(**common | {"init": start, "n_init": 1}).fit(X)
        return model.cluster_centers_.astype(np.float32)


def unit_length(X: np.ndarray) -> np.ndarray:
    """``X`` float32 (M, D) with rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(length > 0, length, 1)


def count_distinct(X: np.ndarray, enough: int) -> int:
    """How many different rows ``X`` (M, D) has, counted up to ``enough``."""
    seen: set[bytes] = set()
    for row in X:
        seen.add((row + 0.0).tobytes())  # -0.0 and 0.0 are one number
        if len(seen) >= enough:
            break
    return len(seen)


def nearest_centre(X: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Id int64 (M,) of the nearest of ``centres`` (K, D) to each of ``X`` (M, D), and its squared distance (M,).

    In float64, chunk by chunk: float32 can't tell near vectors apart.
    """
    wide = centres.astype(np.float64)
    half = 0.5 * (wide**2).sum(axis=1)
    ids = np.empty(len(X), np.int64)
    distances = np.empty(len(X))
    for start in range(0, len(X), CHUNK):
        part = X[start : start + CHUNK].astype(np.float64)
        score = part @ wide.T - half
        here = slice(start, start + len(part))
        ids[here] = score.argmax(axis=1)
        distances[here] = ((part - wide[ids[here]]) ** 2).sum(axis=1)
    return ids, distances


def fill_empty(X: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """``centres`` float32 (K, D), the empty ones moved so that each has some of ``X`` float32 (M, D).

    An empty cluster takes the farthest vector of the most spread one. Each such step lowers the sum of squared
    distances, so it ends where there are K distinct vectors.
    """
    centres = centres.copy()
    for _ in range(10 * len(centres) + 10):
        ids, distances = nearest_centre(X, centres)
        empty = np.flatnonzero(np.bincount(ids, minlength=len(centres)) == 0)
        if not len(empty):
            return centres
        spread = np.bincount(ids, distances, minlength=len(centres))
        widest = np.argsort(-spread, kind="stable")[: len(empty)]
        for free, wide in zip(empty, widest[spread[widest] > 0], strict=False):
            members = np.flatnonzero(ids == wide)
            centres[free] = X[members[distances[members].argmax()]]
    raise UsageError(f"the vectors are too alike for {len(centres)} clusters: add photos, or lower their number")
