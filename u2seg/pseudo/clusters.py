"""k-means: the pseudo-classes of masks, and what stuff by k-means shares with them.

Shapes: ``M`` vectors; ``D`` channels; ``K`` clusters.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError, lookup, within

CHUNK = 4096
"""Vectors that distances are taken of at a time, to bound memory."""
TRIAL = 500
"""Vectors a centre on which starts of k-means are compared: as good as all of them, at a quarter of the time."""
MOST_BOUNDS = 50_000_000
"""Bounds float32 on distances, one for each vector and centre, that k-means may keep: 200 MB. With them (Elkan, ICML
2003) it takes the same steps, but few distances: a third of the time for 100,000 vectors of 384 channels."""
MINI_BATCH_WORK = 40_000_000
"""M x K from which "auto" takes mini-batches: 50,000 masks at K = 800."""


@dataclass(kw_only=True, eq=False)
class KMeans:
    """k-means over the mask embeddings of the whole set, full or in mini-batches; no cluster stays empty.

    Args:
        n_clusters: K.
        random_state: seed.
        n_init: starts, of which the best is kept.
        max_iter: most iterations of a start (the paper: 100).
        normalise: scale each vector to length 1 first, so that distance is cosine.
        mini_batch: whether to learn in mini-batches; "auto" decides by the size of the set.

    Raises:
        UsageError: an argument is out of range.
    """

    n_clusters: int
    random_state: int = 0
    n_init: int = 4
    max_iter: int = 100
    normalise: bool = True
    mini_batch: bool | str = "auto"
    cluster_centers_: np.ndarray = field(init=False, repr=False)
    """float32 (K, D), after `fit` or `load_state`."""

    def __post_init__(self) -> None:
        within("U2SEG.NUM_THINGS", self.n_clusters, 1, whole=True)
        lookup("mini_batch", str(self.mini_batch), dict.fromkeys(("True", "False", "auto")))

    def fit(self, X: np.ndarray) -> KMeans:
        """Learn K centres from embeddings float32 (M, D), and return itself.

        Raises:
            UsageError: there are fewer vectors, or fewer distinct ones, than clusters.
            DataError: ``X`` is no matrix of finite numbers.
        """
        vectors = self._vectors(X)
        distinct = count_distinct(vectors, self.n_clusters)
        if distinct < self.n_clusters:
            raise UsageError(
                f"{self.n_clusters} clusters were asked for, and there are only {len(vectors)} masks with {distinct} "
                "distinct embeddings: add photos, or lower U2SEG.NUM_THINGS"
            )
        large = len(vectors) * self.n_clusters > MINI_BATCH_WORK
        mini_batch = large if self.mini_batch == "auto" else bool(self.mini_batch)
        centres = learn_centres(vectors, self.n_clusters, self.random_state, self.n_init, self.max_iter, mini_batch)
        self.cluster_centers_ = fill_empty(vectors, centres)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Id int64 (M,) of the nearest centre of each of ``X`` float32 (M, D); the lower id where two are as near."""
        vectors, channels = self._vectors(X), self.cluster_centers_.shape[1]
        if vectors.shape[1] != channels:
            raise DataError(f"embeddings have {vectors.shape[1]} channels, the centres {channels}")
        return nearest_centre(vectors, self.cluster_centers_)[0]

    def _vectors(self, X: np.ndarray) -> np.ndarray:
        X = np.ascontiguousarray(X, np.float32)
        if X.ndim != 2 or not np.isfinite(X).all():
            raise DataError(f"embeddings must be finite numbers (M, D), not {X.shape}")
        return unit_length(X) if self.normalise else X

    def state(self) -> dict[str, np.ndarray]:
        """The centres float32 (K, D) and whether vectors are normalised first."""
        return {"cluster_centers": self.cluster_centers_, "normalise": np.array(self.normalise)}

    def load_state(self, state: dict[str, np.ndarray]) -> KMeans:
        """Restore what `state` gave, and return itself.

        Raises:
            UsageError: it holds another number of clusters.
        """
        centres = np.asarray(state["cluster_centers"], np.float32)
        if len(centres) != self.n_clusters:
            raise UsageError(f"the saved clusters are {len(centres)}, and U2SEG.NUM_THINGS asks for {self.n_clusters}")
        self.cluster_centers_, self.normalise = centres, bool(state["normalise"])
        return self


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
