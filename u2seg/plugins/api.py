"""What a plugin may offer (the hooks), and what each part must do (the contracts).

A plugin is a module (or object) in the entry-point group ``u2seg``. Provider hooks take nothing and return
``{name: factory}``. They are called to list names, so they must import nothing heavy: do that inside the factory.
A factory takes keyword arguments only; they come from the YAML (``U2SEG.<PART>.ARGS.<name>``) and are checked
against its signature before it is called. All offers are collected; the YAML names the one that is used.

Every part is deterministic for its seed, leaves its inputs as they were, and can be used in a worker process.

Shapes: ``H, W`` image pixels; ``h, w`` any grid that covers the whole image; ``D`` feature channels; ``N`` masks;
``M`` vectors; ``K`` clusters; ``S`` stuff classes; ``C`` channels of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pluggy

from u2seg.structures import MaskSet

PROJECT = "u2seg"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Factories = dict[str, Callable[..., Any]]


@hookspec
def u2seg_feature_extractors() -> Factories:
    """Offer factories of `FeatureExtractor`."""
    raise NotImplementedError


@hookspec
def u2seg_mask_generators() -> Factories:
    """Offer factories of `MaskGenerator`."""
    raise NotImplementedError


@hookspec
def u2seg_clusterers() -> Factories:
    """Offer factories of `Clusterer`; also given ``n_clusters`` and ``random_state``."""
    raise NotImplementedError


@hookspec
def u2seg_stuff_segmenters() -> Factories:
    """Offer factories of `StuffSegmenter`.

    A factory that names them is also given ``num_classes``, ``random_state``, ``device`` and ``features``, the node
    ``{NAME, ARGS}`` of the extractor whose features it will see.
    """
    raise NotImplementedError


@hookspec
def u2seg_refiners() -> Factories:
    """Offer factories of `Refiner`."""
    raise NotImplementedError


@hookspec
def u2seg_add_config(cfg: Any) -> None:
    """Add config keys with their defaults to ``cfg``, a `CfgNode`, such as those of a trainer or generator.

    It is called for the config of the label factory too, which has no group but ``U2SEG``: look before you extend one.
    """
    raise NotImplementedError


@hookspec
def u2seg_register_detectron2() -> None:
    """Register models, mappers, evaluators or datasets in Detectron2's registries. Called once, inside ``main``."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """Dense features of images from a frozen network."""

    dim: int
    """D, channels of a feature."""
    stride: int
    """Pixels of the network's input per cell of the grid."""

    def extract(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features float32 (D, h, w) of each image uint8 (H, W, 3) RGB. Images may differ in size.

        May also have ``embed(images) -> float32 (len(images), E)``, one vector for each whole image; where it is
        missing, the mean of `extract` over the grid is used. May also have ``prepare() -> dict``, called once before
        any worker starts: fetch and check weights, and say for the record which they are (``uri``, ``sha256``,
        ``caveat``).
        """
        ...


@runtime_checkable
class SharesPass(Protocol):
    """What a `FeatureExtractor` may have too: several blocks of one network by one pass."""

    def shares_pass(self, other: Any) -> bool:
        """Whether ``other``, a feature extractor, takes its features from the same pass of the same network."""
        ...

    def extract_with(self, images: Sequence[np.ndarray], others: Sequence[Any]) -> list[list[np.ndarray]]:
        """What `FeatureExtractor.extract` of this and of ``others``, which share its pass, give, in order."""
        ...


@runtime_checkable
class MaskGenerator(Protocol):
    """Finds the things of one image."""

    def generate(self, image: np.ndarray, features: np.ndarray) -> MaskSet:
        """Masks of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        The masks may lie on any grid that covers the whole image; the refiner brings them to pixels. May also have
        ``generate_batch(images, features) -> list[MaskSet]`` for many images at once, with the same results.
        """
        ...


@runtime_checkable
class Clusterer(Protocol):
    """Groups the mask embeddings of the whole set into pseudo-classes."""

    n_clusters: int
    cluster_centers_: np.ndarray
    """float32 (K, D), after `fit`."""

    def fit(self, X: np.ndarray) -> Clusterer:
        """Learn from embeddings float32 (M, D), M >= K, and return itself. No cluster is left empty."""
        ...

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Cluster ids int64 (M,) in [0, K) of embeddings float32 (M, D)."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learnt, as arrays, for the file beside the labels."""
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> Clusterer:
        """Take up what `state` gave, and return itself."""
        ...


@runtime_checkable
class StuffSegmenter(Protocol):
    """Labels the amorphous regions (sky, grass, wall) of an image.

    May also have ``info``, a dict for the record, such as the sha256 of a checkpoint that was trained beforehand.
    """

    num_classes: int

    def fit(self, features: Iterable[np.ndarray]) -> StuffSegmenter:
        """Learn from features float32 (D, h, w) of a sample of the set, and return itself."""
        ...

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Stuff of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Either class probabilities float32 (S, h, w), which the refiner brings to pixels (all zero: no stuff there),
        or finished labels uint8 (H, W) in [0, S), 255 for none.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learnt, as arrays, for the file beside the labels."""
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> StuffSegmenter:
        """Take up what `state` gave, and return itself."""
        ...


@runtime_checkable
class Refiner(Protocol):
    """Sharpens coarse scores to the edges of the image."""

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores float32 (C, H, W) of ``image`` uint8 (H, W, 3) from ``scores`` float32 (C, h, w).

        ``scores`` are probabilities in [0, 1] over C channels: background and mask (C = 2), or stuff classes. The
        label of a pixel is the argmax over C of the result.
        """
        ...
