"""Steps of stuff by k-means: sample, project, group, score, smooth. Pure functions.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``M`` patches; ``E`` channels after the projection; ``S`` stuff
classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from u2seg.errors import DataError


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


def principal_axes(patches: np.ndarray, count: int, whiten: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean float32 (D,) and axes float32 (D, E) of the ``count`` (0: all, unrotated) largest principal components."""
    mean = patches.mean(axis=0, dtype=np.float64)
    dims = patches.shape[1]
    if not count:
        axes = np.eye(dims)
        if whiten:
            axes /= np.maximum(patches.std(axis=0, dtype=np.float64), 1e-6)
        return mean.astype(np.float32), axes.astype(np.float32)
    second = np.zeros((dims, dims))
    for start in range(0, len(patches), 8192):
        part = patches[start : start + 8192] - mean
        second += part.T @ part
    values, vectors = np.linalg.eigh(second / max(len(patches) - 1, 1))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    if whiten:
        vectors = vectors / np.sqrt(np.maximum(values, 1e-6 * max(values[0], 1e-12)))
    return mean.astype(np.float32), np.ascontiguousarray(vectors, np.float32)


def fit_centres(vectors: np.ndarray, count: int, seed: int, n_init: int, max_iter: int) -> np.ndarray:
    """Centres float32 (S, E) of k-means over ``vectors`` float32 (M, E)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    from u2seg.pseudo.centres import fill_empty

    # Threads sum in any order: one thread gives the same last digit every time.
    with threadpool_limits(limits=1):
        model = KMeans(count, random_state=seed, n_init=n_init, max_iter=max_iter).fit(vectors)
    return fill_empty(vectors, model.cluster_centers_.astype(np.float32))


def class_scores(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Probabilities float32 (M, S) that fall with the distance of ``vectors`` (M, E) to ``centres`` (S, E)."""
    cosine = vectors @ centres.T
    cosine /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6
    cosine /= np.linalg.norm(centres, axis=1) + 1e-6
    cosine *= 5.0
    found = np.exp(cosine - cosine.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def smooth(scores: np.ndarray, side: int) -> np.ndarray:
    """``scores`` float32 (S, h, w) averaged over squares of ``side`` cells, the border repeated."""
    if side == 1:
        return scores
    return ndimage.uniform_filter(scores, size=(1, side, side), mode="nearest")


def drop_small(scores: np.ndarray, min_share: float) -> np.ndarray:
    """Probabilities (S, h, w) without classes that are likeliest on less than ``min_share`` of the grid; the largest
    class always stays, and cells sum to 1 over those that stay.
    """
    shares = np.bincount(scores.argmax(axis=0).ravel(), minlength=len(scores)) / scores[0].size
    stays = shares >= min(min_share, shares.max())
    found = np.where(stays[:, None, None], scores, np.float32(0))
    return np.clip(found / np.maximum(found.sum(axis=0), 1e-12), 0, 1).astype(np.float32)
