"""Dense CRF without a compiler: mean field with Potts compatibility on a permutohedral lattice of sparse matrices.

Shapes: ``N`` score maps of ``C`` labels; ``h, w`` their grid; ``Y, X`` working grid, ``P = Y X``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.pseudo.refine.energy import DenseEnergy, MeanFieldFunction

_TINY = np.float32(1e-20)


@dataclass(frozen=True, kw_only=True)
class BilateralRefiner(DenseEnergy):
    """Dense CRF (Krähenbühl & Koltun 2011) in numpy and scipy, by default at half resolution and with 5 steps."""

    iterations: int = 5
    scale: float = 0.5

    def mean_field(self, image: np.ndarray) -> MeanFieldFunction:
        """As `DenseEnergy.mean_field`."""
        return MeanField(self, image).infer


class MeanField:
    """Both kernels of ``energy`` on ``image`` uint8 (Y, X, 3), each normalised symmetrically (D^-1/2 K D^-1/2)."""

    def __init__(self, energy: DenseEnergy, image: np.ndarray) -> None:
        from u2seg.pseudo.refine.lattice import PermutohedralLattice

        self.energy, self.shape = energy, image.shape[:2]
        self._lattice = PermutohedralLattice(positions(energy, image))
        ones = np.ones((1, image.shape[0] * image.shape[1]), np.float32)
        self._smooth_norm = 1 / np.sqrt(self._blur(ones) + _TINY)
        self._bilateral_norm = 1 / np.sqrt(self._lattice.filter(ones) + _TINY)
        self._message_of_ones = self._message(ones)

    def infer(self, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (N, C, Y, X) from probabilities ``scores`` float32 (N, C, h, w)."""
        import torch

        unary = self.energy.unary(scores, *self.shape).reshape(*scores.shape[:2], -1)
        marginals = torch.from_numpy(-unary).softmax(1).numpy()
        for _ in range(self.energy.iterations):
            # The marginals of a pixel sum to 1, so the last message is what the others leave of that of all ones.
            others = marginals[:, :-1]
            messages = self._message(others.reshape(-1, others.shape[-1])).reshape(others.shape)
            last = self._message_of_ones - messages.sum(axis=1, keepdims=True)
            energy = np.concatenate([messages, last], axis=1) - unary
            marginals = torch.from_numpy(energy).softmax(1).numpy()
        return marginals.reshape(*scores.shape[:2], *self.shape)

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

        maps, sigma = values.reshape(-1, *self.shape), self.energy.position_std * self.energy.scale
        return ndimage.gaussian_filter(maps, sigma, mode="constant", axes=(1, 2)).reshape(values.shape)


def positions(energy: DenseEnergy, image: np.ndarray) -> np.ndarray:
    """Place and colour of each pixel in standard deviations, float32 (5, P)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    place = np.stack([x.ravel(), y.ravel()]) / (energy.bilateral_std * energy.scale)
    return np.concatenate([place, image.reshape(-1, 3).T / energy.colour_std]).astype(np.float32)
