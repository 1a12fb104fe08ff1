"""Steps of stuff by k-means: sample, project, group, score, smooth. Pure functions.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``M`` patches; ``E`` channels after the projection; ``S`` stuff
classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage
from scipy.special import softmax

from u2seg.errors import DataError
from u2seg.pseudo.centres import CHUNK, unit_length


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
    if cosine:
        likeness = unit_length(vectors) @ unit_length(centres).T
    else:
        squares = (centres**2).sum(axis=1)
        likeness = (vectors @ centres.T - squares / 2) / max(float(squares.mean()), 1e-12)
    return softmax(likeness / np.float32(temperature), axis=1).astype(np.float32)


def smooth(scores: np.ndarray, side: int) -> np.ndarray:
    """``scores`` float32 (S, h, w) averaged over squares of ``side`` cells, the border repeated."""
    return ndimage.uniform_filter(scores, size=(1, side, side), mode="nearest") if side > 1 else scores


def drop_small(scores: np.ndarray, min_share: float) -> np.ndarray:
    """Probabilities (S, h, w) without classes that are likeliest on less than ``min_share`` of the grid; the largest
    class always stays, and cells sum to 1 over those that stay.
    """
    shares = np.bincount(scores.argmax(axis=0).ravel(), minlength=len(scores)) / scores[0].size
    stays = shares >= min(min_share, shares.max())
    kept = np.where(stays[:, None, None], scores, np.float32(0))
    return np.clip(kept / np.maximum(kept.sum(axis=0), 1e-12), 0, 1).astype(np.float32)
