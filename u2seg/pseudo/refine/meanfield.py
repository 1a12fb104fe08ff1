"""Mean field of a dense CRF with Potts compatibility, the kernels of one image prepared once.

Shapes: ``C`` labels; ``h, w`` grid of the scores; ``Y, X`` pixels of the image at hand, ``P = Y X``.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from u2seg.pseudo.refine.energy import DenseEnergy
from u2seg.pseudo.refine.lattice import PermutohedralLattice


class MeanField:
    """Both kernels of ``energy`` on ``image`` uint8 (Y, X, 3), each normalised symmetrically (D^-1/2 K D^-1/2)."""

    def __init__(self, energy: DenseEnergy, image: np.ndarray) -> None:
        self.energy = energy
        self.shape = image.shape[:2]
        self._sigma = energy.position_std * energy.scale
        self._lattice = PermutohedralLattice(_positions(energy, image))
        ones = np.ones((image.shape[0] * image.shape[1], 1), np.float32)
        self._smooth_norm = 1 / np.sqrt(self._blur(ones))
        self._bilateral_norm = 1 / np.sqrt(self._lattice.filter(ones) + np.float32(1e-20))

    def infer(self, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (C, Y, X) from probabilities ``scores`` float32 (C, h, w)."""
        unary = self.energy.unary(scores, *self.shape).reshape(len(scores), -1).T
        marginals = _softmax(-unary)
        for _ in range(self.energy.iterations):
            marginals = _softmax(self._message(marginals) - unary)
        return np.ascontiguousarray(marginals.T).reshape(len(scores), *self.shape)

    def _message(self, marginals: np.ndarray) -> np.ndarray:
        """Weighted sum float32 (P, C) of both kernels applied to ``marginals`` float32 (P, C)."""
        total = np.zeros_like(marginals)
        if self.energy.position_weight:
            norm = self._smooth_norm
            total += np.float32(self.energy.position_weight) * norm * self._blur(marginals * norm)
        if self.energy.bilateral_weight:
            norm = self._bilateral_norm
            total += np.float32(self.energy.bilateral_weight) * norm * self._lattice.filter(marginals * norm)
        return total

    def _blur(self, values: np.ndarray) -> np.ndarray:
        """Gaussian of the position alone, float32 (P, C); nothing comes from outside the image."""
        maps = values.reshape(*self.shape, -1)
        return ndimage.gaussian_filter(maps, self._sigma, mode="constant", axes=(0, 1)).reshape(values.shape)


def _positions(energy: DenseEnergy, image: np.ndarray) -> np.ndarray:
    """Place and colour of each pixel in standard deviations, float64 (P, 5)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    place = np.stack([x, y], axis=-1).reshape(-1, 2) / (energy.bilateral_std * energy.scale)
    return np.hstack([place, image.reshape(-1, 3) / energy.colour_std])


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float32."""
    found = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found /= found.sum(axis=-1, keepdims=True)
    return found
