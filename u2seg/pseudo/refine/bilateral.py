"""Dense CRF without a compiler: mean field with Potts compatibility on a permutohedral lattice of sparse matrices.

Shapes: ``C`` labels; ``h, w`` grid of the scores; ``H, W`` image pixels; ``Y, X`` working grid, ``P = Y X``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from u2seg.pseudo.refine.energy import DenseEnergy


@dataclass(frozen=True, kw_only=True)
class BilateralRefiner(DenseEnergy):
    """Dense CRF (Krähenbühl & Koltun 2011) in numpy and scipy, by default at half resolution and with 5 steps."""

    iterations: int = 5
    scale: float = 0.5

    def refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`refine` for each of ``many``; the lattice of the image is built once."""
        from u2seg.pseudo.refine.resize import resize_scores

        field = None
        for scores in many:
            field = field or MeanField(self, self.shrink(image))
            yield resize_scores(field.infer(scores), *image.shape[:2])


class MeanField:
    """Both kernels of ``energy`` on ``image`` uint8 (Y, X, 3), each normalised symmetrically (D^-1/2 K D^-1/2)."""

    def __init__(self, energy: DenseEnergy, image: np.ndarray) -> None:
        self.energy = energy
        self.shape = image.shape[:2]
        self._sigma = energy.position_std * energy.scale
        from u2seg.pseudo.refine.lattice import PermutohedralLattice

        self._lattice = PermutohedralLattice(_positions(energy, image))
        ones = np.ones((1, image.shape[0] * image.shape[1]), np.float32)
        tiny = np.float32(1e-20)
        self._smooth_norm = 1 / np.sqrt(self._blur(ones) + tiny)
        self._bilateral_norm = 1 / np.sqrt(self._lattice.filter(ones) + tiny)
        self._all = self._message(ones)

    def infer(self, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (C, Y, X) from probabilities ``scores`` float32 (C, h, w)."""
        unary = self.energy.unary(scores, *self.shape).reshape(len(scores), -1)
        marginals = _softmax(-unary)
        for _ in range(self.energy.iterations):
            # The marginals of a pixel sum to 1, so the last message is what the others leave of that of all ones.
            messages = self._message(marginals[:-1])
            last = self._all - messages.sum(axis=0, keepdims=True)
            marginals = _softmax(np.concatenate([messages, last]) - unary)
        return marginals.reshape(len(scores), *self.shape)

    def _message(self, marginals: np.ndarray) -> np.ndarray:
        """Weighted sum float32 (n, P) of both kernels applied to ``marginals`` float32 (n, P)."""
        norm = self._bilateral_norm
        total = self._lattice.filter(marginals * norm)
        total *= np.float32(self.energy.bilateral_weight) * norm
        norm = self._smooth_norm
        total += np.float32(self.energy.position_weight) * norm * self._blur(marginals * norm)
        return total

    def _blur(self, values: np.ndarray) -> np.ndarray:
        """Gaussian of the position alone, float32 (n, P); nothing comes from outside the image."""
        from scipy import ndimage

        maps = values.reshape(-1, *self.shape)
        return ndimage.gaussian_filter(maps, self._sigma, mode="constant", axes=(1, 2)).reshape(values.shape)


def _positions(energy: DenseEnergy, image: np.ndarray) -> np.ndarray:
    """Place and colour of each pixel in standard deviations, float32 (5, P)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    place = np.stack([x.ravel(), y.ravel()]) / (energy.bilateral_std * energy.scale)
    return np.concatenate([place, image.reshape(-1, 3).T / energy.colour_std]).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over axis 0 of float32 (C, P)."""
    found = np.exp(logits - logits.max(axis=0))
    found /= found.sum(axis=0)
    return found
