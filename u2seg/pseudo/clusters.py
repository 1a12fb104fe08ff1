"""k-means over the mask embeddings of the whole set: the pseudo-classes.

Shapes: ``M`` vectors; ``D`` channels; ``K`` clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from u2seg.errors import DataError, UsageError, lookup, within
from u2seg.pseudo.centres import count_distinct, fill_empty, learn_centres, nearest_centre, unit_length

MINI_BATCH_WORK = 40_000_000
"""M x K from which "auto" takes mini-batches: 50,000 masks at K = 800."""


@dataclass(kw_only=True, eq=False)
class KMeans:
    """k-means by scikit-learn, full or in mini-batches; no cluster stays empty.

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
