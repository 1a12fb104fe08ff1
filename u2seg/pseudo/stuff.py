"""Stuff by k-means over patch features of the whole set.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``H, W`` image pixels; ``M`` patches of the sample;
``E`` channels after the projection; ``S`` stuff classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from u2seg.errors import DataError, UsageError, within
from u2seg.pseudo.clusters import CHUNK, fill_empty, learn_centres, unit_length
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


def sample_patches(features: Iterable[np.ndarray], most: int, seed: int) -> np.ndarray:
    """At most ``most`` patches float32 (M, D) of all ``features`` (D, h, w), each as likely as any other.

    Each patch draws a number and the smallest numbers stay, so memory holds twice the sample and no more.
    """
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    held = 0
    for array in features:
        patches = np.ascontiguousarray(array.reshape(len(array), -1).T, np.float32)
        if kept and patches.shape[1] != kept[0].shape[1]:
            raise DataError(f"features have {patches.shape[1]} channels, those before {kept[0].shape[1]}")
        kept.append(patches)
        drawn.append(rng.random(len(patches)))
        held += len(patches)
        if held > 2 * most:
            kept, drawn = _thin(kept, drawn, most)
            held = most
    if not kept:
        return np.zeros((0, 0), np.float32)
    return _thin(kept, drawn, most)[0][0]


def _thin(kept: list[np.ndarray], drawn: list[np.ndarray], most: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    numbers = np.concatenate(drawn)
    chosen = np.sort(np.argsort(numbers, kind="stable")[:most])
    return [np.concatenate(kept)[chosen]], [numbers[chosen]]


def principal_axes(patches: np.ndarray, count: int, whiten: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean float32 (D,) of ``patches`` float32 (M, D), and axes float32 (D, E) of the ``count`` components of largest
    variance (0: all), each divided by its standard deviation to the power ``whiten``.

    All components with ``whiten`` 0 would be a rotation, which no distance depends on: then there are no axes, (D, 0).
    """
    mean = patches.mean(axis=0, dtype=np.float64)
    if not count and not whiten:
        return mean.astype(np.float32), np.zeros((len(mean), 0), np.float32)
    second = np.zeros((len(mean), len(mean)))
    for start in range(0, len(patches), CHUNK):
        part = patches[start : start + CHUNK] - mean
        second += part.T @ part
    variances, axes = np.linalg.eigh(second / max(len(patches) - 1, 1))
    variances, axes = variances[::-1][: count or None], axes[:, ::-1][:, : count or None]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    floor = max(1e-6 * variances[0], 1e-12)
    return mean.astype(np.float32), (axes / np.maximum(variances, floor) ** (whiten / 2)).astype(np.float32)


def project(patches: np.ndarray, mean: np.ndarray, axes: np.ndarray, normalise: bool) -> np.ndarray:
    """``patches`` (M, D) less ``mean`` (D,) on ``axes`` (D, E), scaled to length 1 on request: float32 (M, E).

    Axes (D, 0) leave the channels as they are: float32 (M, D).
    """
    centred = (patches - mean).astype(np.float32, copy=False)
    vectors = centred @ axes if axes.size else centred
    return unit_length(vectors) if normalise else vectors


def class_scores(vectors: np.ndarray, centres: np.ndarray, temperature: float, cosine: bool) -> np.ndarray:
    """Probabilities float32 (M, S) of ``vectors`` (M, E): softmax of their likeness to ``centres`` (S, E).

    Likeness is the cosine, or else minus half the squared distance, in units of the centres' mean squared length.
    """
    from scipy.special import softmax

    if cosine:
        likeness = unit_length(vectors) @ unit_length(centres).T
    else:
        squares = (centres**2).sum(axis=1)
        likeness = (vectors @ centres.T - squares / 2) / max(float(squares.mean()), 1e-12)
    return softmax(likeness / np.float32(temperature), axis=1).astype(np.float32)


def smooth(scores: np.ndarray, side: int) -> np.ndarray:
    """``scores`` float32 (S, h, w) averaged over squares of ``side`` cells, the border repeated."""
    from scipy import ndimage

    return ndimage.uniform_filter(scores, size=(1, side, side), mode="nearest") if side > 1 else scores


def drop_small(scores: np.ndarray, min_share: float) -> np.ndarray:
    """Probabilities (S, h, w) without classes that are likeliest on less than ``min_share`` of the grid; the largest
    class always stays, and cells sum to 1 over those that stay.
    """
    shares = np.bincount(scores.argmax(axis=0).ravel(), minlength=len(scores)) / scores[0].size
    stays = shares >= min(min_share, shares.max())
    kept = np.where(stays[:, None, None], scores, np.float32(0))
    return np.clip(kept / np.maximum(kept.sum(axis=0), 1e-12), 0, 1).astype(np.float32)
