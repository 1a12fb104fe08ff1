"""k-means over the mask embeddings of the whole set: the pseudo-classes.

Shapes: ``M`` vectors; ``D`` channels; ``K`` clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError, lookup, within
from u2seg.pseudo.centres import count_distinct, fill_empty, learn_centres, nearest_centre, unit_length

MINI_BATCH_WORK = 200_000_000
"""M x K from which "auto" takes mini-batches: 250,000 masks at K = 800."""


@dataclass(kw_only=True, eq=False)
class Centres:
    """K centres, however they are learnt; no cluster stays empty.

    Args:
        n_clusters: K.
        random_state: seed.
        n_init: starts, of which the best is kept.
        max_iter: most iterations of a start (the paper: 100).
        normalise: scale each vector to length 1 first, so that distance is cosine.

    Raises:
        UsageError: an argument is out of range, or a library is not installed.
    """

    n_clusters: int
    random_state: int = 0
    n_init: int = 4
    max_iter: int = 100
    normalise: bool = True
    cluster_centers_: np.ndarray = field(init=False, repr=False)
    """float32 (K, D), after `fit` or `load_state`."""

    def __post_init__(self) -> None:
        within("U2SEG.NUM_THINGS", self.n_clusters, 1, whole=True)

    def fit(self, X: np.ndarray) -> Centres:
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
        centres = np.ascontiguousarray(self._learn(vectors), np.float32)
        self.cluster_centers_ = fill_empty(vectors, centres)
        return self

    def _learn(self, vectors: np.ndarray) -> np.ndarray:
        """Centres float (K, D) of ``vectors`` float32 (M, D)."""
        raise NotImplementedError

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

    def load_state(self, state: dict[str, np.ndarray]) -> Centres:
        """Restore what `state` gave, and return itself.

        Raises:
            UsageError: it holds another number of clusters.
        """
        centres = np.asarray(state["cluster_centers"], np.float32)
        if len(centres) != self.n_clusters:
            raise UsageError(f"the saved clusters are {len(centres)}, and U2SEG.NUM_THINGS asks for {self.n_clusters}")
        self.cluster_centers_, self.normalise = centres, bool(state["normalise"])
        return self


@dataclass(kw_only=True, eq=False)
class KMeans(Centres):
    """k-means by scikit-learn, full or in mini-batches; ``mini_batch`` "auto" decides by the size of the set."""

    mini_batch: bool | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup("mini_batch", str(self.mini_batch), dict.fromkeys(("True", "False", "auto")))

    def _learn(self, vectors: np.ndarray) -> np.ndarray:
        large = len(vectors) * self.n_clusters > MINI_BATCH_WORK
        mini_batch = large if self.mini_batch == "auto" else bool(self.mini_batch)
        return learn_centres(vectors, self.n_clusters, self.random_state, self.n_init, self.max_iter, mini_batch)


@dataclass(kw_only=True, eq=False)
class FaissKMeans(Centres):
    """k-means by faiss, for millions of masks; learns from at most K times ``max_points_per_cluster`` of them."""

    n_init: int = 1
    max_points_per_cluster: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        _faiss()

    def _learn(self, vectors: np.ndarray) -> np.ndarray:
        model = _faiss().Kmeans(
            vectors.shape[1],
            self.n_clusters,
            niter=self.max_iter,
            nredo=self.n_init,
            seed=self.random_state,
            min_points_per_centroid=1,
            max_points_per_centroid=self.max_points_per_cluster,
        )
        model.train(vectors)
        return model.centroids


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            "clusterer 'faiss_kmeans' needs faiss: pip install 'u2seg[faiss]', or set U2SEG.CLUSTERS.NAME to kmeans"
        ) from error
    return faiss
