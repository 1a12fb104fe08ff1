"""What each part must do, and what it may do beside. Where it is optional it has a Protocol of its own.

Every part is deterministic for its seed, leaves its inputs as they were, and can be used in a worker process.

Shapes: ``H, W`` image pixels; ``h, w`` any grid that covers the whole image; ``D`` feature channels; ``E`` channels of
an embedding; ``N`` masks; ``M`` vectors; ``K`` clusters; ``S`` stuff classes; ``C`` channels of scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from u2seg.structures import MaskSet


@runtime_checkable
class FeatureExtractor(Protocol):
    """Dense features of images from a frozen network."""

    dim: int
    """D, channels of a feature."""
    stride: int
    """Pixels of the network's input per cell of the grid."""

    def extract(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Finite features float32 (D, h, w) of each of one or more images uint8 (H, W, 3) RGB.

        Those of an image do not depend on what else is in the call.
        """


@runtime_checkable
class Embeds(Protocol):
    """What a `FeatureExtractor` may have too; where it is missing, `FeatureExtractor.extract`'s mean is used."""

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """One vector for each whole image uint8 (H, W, 3), float32 (len(images), E)."""


@runtime_checkable
class Prepares(Protocol):
    """What a `FeatureExtractor` may have too."""

    def prepare(self) -> Mapping[str, Any]:
        """Fetch and check weights; called once, before any worker starts.

        Returns:
            What the record says of them: ``weights`` (where they are from), ``weights_sha256``, ``caveat``, ...
        """


@runtime_checkable
class SharesPass(Protocol):
    """What a `FeatureExtractor` may have too: several blocks of one network by one pass."""

    def shares_pass(self, other: Any) -> bool:
        """Whether ``other``, a feature extractor, takes its features from the same pass of the same network."""

    def extract_with(self, images: Sequence[np.ndarray], others: Sequence[Any]) -> list[list[np.ndarray]]:
        """What `FeatureExtractor.extract` of this and of ``others``, which share its pass, give, in order."""


@runtime_checkable
class MaskGenerator(Protocol):
    """Finds the things of one image."""

    def generate(self, image: np.ndarray, features: np.ndarray) -> MaskSet:
        """Masks of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        The masks may lie on any grid that covers the whole image; the refiner brings them to pixels.
        """


@runtime_checkable
class GeneratesBatch(Protocol):
    """What a `MaskGenerator` may have too: many images at once, with the same results."""

    def generate_batch(self, images: Sequence[np.ndarray], features: Sequence[np.ndarray]) -> list[MaskSet]:
        """What `MaskGenerator.generate` gives for each image with its features."""


@runtime_checkable
class Clusterer(Protocol):
    """Groups the mask embeddings of the whole set into pseudo-classes."""

    n_clusters: int
    """K"""

    def fit(self, X: np.ndarray) -> Clusterer:
        """Learn from embeddings float32 (M, D) and return itself."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Cluster ids int64 (M,) in [0, K) of embeddings float32 (M, D), M >= 1; some ids may be no one's."""

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learnt, as arrays, for the file beside the labels."""

    def load_state(self, state: dict[str, np.ndarray]) -> Clusterer:
        """Take up what `state` gave, and return itself."""


@runtime_checkable
class HasCenters(Protocol):
    """What a `Clusterer` may have too: after `Clusterer.fit`, a centre for each cluster, and none without vectors."""

    cluster_centers_: np.ndarray
    """float32 (K, D)"""


@runtime_checkable
class StuffSegmenter(Protocol):
    """Labels the amorphous regions (sky, grass, wall) of an image."""

    num_classes: int
    """S"""

    def fit(self, features: Iterable[np.ndarray]) -> StuffSegmenter:
        """Learn from features float32 (D, h, w) of a sample of the set, and return itself."""

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Stuff of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Either class probabilities float32 (S, h, w) in [0, 1], which the refiner brings to pixels (what is left to 1:
        no stuff there), or finished labels uint8 (H, W) in [0, S), 255 for none.
        """

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learnt, as arrays, for the file beside the labels."""

    def load_state(self, state: dict[str, np.ndarray]) -> StuffSegmenter:
        """Take up what `state` gave, and return itself."""


@runtime_checkable
class HasInfo(Protocol):
    """What a `StuffSegmenter` may have too."""

    info: Mapping[str, Any]
    """What the record says of it, such as the sha256 of a checkpoint that was trained beforehand."""


@runtime_checkable
class Refiner(Protocol):
    """Sharpens coarse scores to the edges of the image."""

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores float32 (C, H, W) of ``image`` uint8 (H, W, 3) from ``scores`` float32 (C, h, w).

        ``scores`` are probabilities in [0, 1] over C channels: background and mask (C = 2), or stuff classes. The
        label of a pixel is the argmax over C of the result.
        """


@runtime_checkable
class RefinesMany(Protocol):
    """What a `Refiner` may have too, to share what depends on the image alone."""

    def refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """What `Refiner.refine` gives for each of ``many``, one at a time."""
