"""Stuff by k-means over patch features of the whole set.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``H, W`` image pixels; ``M`` patches of the sample;
``E`` channels after the projection; ``S`` stuff classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from u2seg.errors import DataError, UsageError, within
from u2seg.structures import MAX_STUFF


@dataclass(kw_only=True, eq=False)
class KMeansStuff:
    """Spherical k-means on whitened patch features, class scores smoothed over the grid, small regions dropped.

    Args:
        num_classes: S, at most 254.
        random_state: seed of the sample and of k-means.
        pca: E, principal components that features are projected to; 0 keeps all.
        whiten: power of its standard deviation that each component is divided by; 0 leaves it, 1 makes all count
            alike, and one half was best on photos that the centres were not learnt on.
        normalise: scale each projected patch to length 1 and compare by cosine; else by Euclidean distance.
        temperature: of the softmax over the likenesses to the centres.
        blur: side in cells, odd, of the square that class scores are averaged over; 1 is no smoothing.
        min_share: classes on less than this share of the photo's area are dropped in that photo, and their cells go to
            the likeliest class that is left.
        max_patches: M, most patches to learn from, drawn evenly from all that are offered.
        n_init: starts of k-means, of which the best is kept.
        max_iter: most iterations of a start.

    Raises:
        UsageError: a number is out of range.
    """

    num_classes: int
    random_state: int = 0
    pca: int = 64
    whiten: float = 0.5
    normalise: bool = True
    temperature: float = 0.05
    blur: int = 5
    min_share: float = 0.1
    max_patches: int = 100_000
    n_init: int = 4
    max_iter: int = 100
    mean: np.ndarray = field(init=False, repr=False)
    """float32 (D,), subtracted from a patch; as `axes` and `centres`, after `fit` or `load_state`."""
    axes: np.ndarray = field(init=False, repr=False)
    """float32 (D, E); (D, 0) where nothing is projected"""
    centres: np.ndarray = field(init=False, repr=False)
    """float32 (S, E)"""

    def __post_init__(self) -> None:
        within("U2SEG.NUM_STUFF", self.num_classes, 1, MAX_STUFF, whole=True)
        within("pca", self.pca, 0, whole=True)
        within("temperature", self.temperature, 1e-6)
        within("min_share", self.min_share, 0, 1)
        if within("blur", self.blur, 1, whole=True) % 2 == 0:
            raise UsageError(f"blur must be an odd number of cells, not {self.blur}")

    def fit(self, features: Iterable[np.ndarray]) -> KMeansStuff:
        """Learn from ``features`` float32 (D, h, w) of some photos, and return itself.

        Raises:
            UsageError: there are fewer patches, or fewer distinct ones, than classes.
        """
        from u2seg.pseudo.centres import fill_empty, learn_centres
        from u2seg.pseudo.stuff.patches import principal_axes, project, sample_patches

        patches = sample_patches(features, self.max_patches, self.random_state)
        if len(patches) < self.num_classes:
            raise UsageError(
                f"{self.num_classes} stuff classes were asked for, and the photos have only {len(patches)} patches: "
                "add photos, or lower U2SEG.NUM_STUFF"
            )
        self.mean, self.axes = principal_axes(patches, self.pca, self.whiten)
        vectors = project(patches, self.mean, self.axes, self.normalise)
        centres = learn_centres(vectors, self.num_classes, self.random_state, self.n_init, self.max_iter)
        self.centres = fill_empty(vectors, centres)
        return self

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Class probabilities float32 (S, h, w) of a photo with ``features`` float32 (D, h, w)."""
        from u2seg.pseudo.stuff.patches import class_scores, drop_small, project, smooth

        dim = len(features)
        if dim != len(self.mean):
            raise DataError(f"features have {dim} channels, the stuff classes were fitted on {len(self.mean)}")
        vectors = project(features.reshape(dim, -1).T, self.mean, self.axes, self.normalise)
        scores = class_scores(vectors, self.centres, self.temperature, self.normalise).T
        scores = np.ascontiguousarray(scores).reshape(self.num_classes, *features.shape[1:])
        return drop_small(smooth(scores, self.blur), self.min_share)

    def state(self) -> dict[str, np.ndarray]:
        """What was learnt, and whether vectors are normalised."""
        return {"mean": self.mean, "axes": self.axes, "centres": self.centres, "normalise": np.array(self.normalise)}

    def load_state(self, state: dict[str, np.ndarray]) -> KMeansStuff:
        """Restore what `state` gave, and return itself.

        Raises:
            UsageError: it holds another number of classes.
        """
        if len(state["centres"]) != self.num_classes:
            raise UsageError(
                f"the saved stuff classes are {len(state['centres'])}, and U2SEG.NUM_STUFF asks for {self.num_classes}"
            )
        self.mean, self.axes, self.centres = state["mean"], state["axes"], state["centres"]
        self.normalise = bool(state["normalise"])
        return self
