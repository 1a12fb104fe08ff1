"""Dense CRF without a compiler: mean field with Potts compatibility on a permutohedral lattice of sparse matrices.

Shapes: ``N`` score maps of ``C`` labels; ``h, w`` their grid; ``Y, X`` working grid, ``P = Y X``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from u2seg.pseudo.refine.energy import DenseEnergy, MeanFieldFunction

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class BilateralRefiner(DenseEnergy):
    """Dense CRF (Krähenbühl & Koltun 2011) in torch and scipy, by default at half resolution and with 5 steps."""

    iterations: int = 5
    scale: float = 0.5

    def mean_field(self, image: np.ndarray) -> MeanFieldFunction:
        """As `DenseEnergy.mean_field`."""
        return MeanField(self, image).infer


class MeanField:
    """Both kernels of ``energy`` on ``image`` uint8 (Y, X, 3), each normalised symmetrically (D^-1/2 K D^-1/2)."""

    def __init__(self, energy: DenseEnergy, image: np.ndarray) -> None:
        import torch

        from u2seg.pseudo.refine.lattice import TINY, PermutohedralLattice

        self.energy, self.shape = energy, image.shape[:2]
        self._lattice = PermutohedralLattice(positions(energy, image))
        self._lattice.normalise(energy.bilateral_weight)
        ones = torch.ones(image.shape[0] * image.shape[1], 1)
        self._smooth_norm = (self._blur(ones) + TINY).rsqrt()
        self._message_of_ones = self._message(ones)

    def infer(self, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (N, C, Y, X) from probabilities ``scores`` float32 (N, C, h, w)."""
        import torch

        count, labels = scores.shape[:2]
        unary = torch.from_numpy(self.energy.unary(scores, *self.shape)).reshape(count, labels, -1).permute(2, 0, 1)
        # The marginals of a pixel sum to 1, so the last label's are what the others leave, and so is its message, of
        # the message of all ones: what counts is how much likelier the others are than the last, (P, N, C - 1).
        likelier = (unary[..., -1:] - unary[..., :-1]).contiguous()
        marginals = _softmax(likelier)
        likelier -= self._message_of_ones[..., None]
        for _ in range(self.energy.iterations):
            messages = self._message(marginals.flatten(1)).reshape(likelier.shape)
            marginals = _softmax(messages + messages.sum(-1, keepdim=True) + likelier)
        every = torch.cat([marginals, 1 - marginals.sum(-1, keepdim=True)], -1)
        return every.permute(1, 2, 0).reshape(count, labels, *self.shape).contiguous().numpy()

    def _message(self, marginals: torch.Tensor) -> torch.Tensor:
        """Weighted sum float32 (P, n) of both kernels applied to ``marginals`` float32 (P, n)."""
        smooth = self._blur(marginals * self._smooth_norm)
        return self._lattice.filter(marginals).addcmul_(smooth, self._smooth_norm, value=self.energy.position_weight)

    def _blur(self, values: torch.Tensor) -> torch.Tensor:
        """Gaussian of the position alone, float32 (P, n), cut at 4 deviations; nothing comes from outside the image."""
        import torch
        from torch.nn.functional import conv2d

        sigma, channels = self.energy.position_std * self.energy.scale, values.shape[1]
        radius = int(4 * sigma + 0.5)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1).contiguous()
        maps = values.reshape(1, *self.shape, channels).permute(0, 3, 1, 2)  # channels last, which is what is fast
        for weight, padding in ((kernel, (0, radius)), (kernel.mT.contiguous(), (radius, 0))):
            maps = conv2d(maps, weight, padding=padding, groups=channels)
        return maps.permute(0, 2, 3, 1).reshape(values.shape)


def _softmax(likelier: torch.Tensor) -> torch.Tensor:
    """Probabilities float32 (..., C - 1) of all labels but the last, from the log of how much ``likelier`` each is."""
    if likelier.shape[-1] == 1:
        return likelier.sigmoid()
    # torch's own softmax over a short last dimension takes twice as long.
    highest = likelier.amax(-1, keepdim=True).clamp_(min=0)
    powers = (likelier - highest).exp_()
    return powers.div_(powers.sum(-1, keepdim=True) + (-highest).exp_())


def positions(energy: DenseEnergy, image: np.ndarray) -> np.ndarray:
    """Place and colour of each pixel in standard deviations, float32 (5, P)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    place = np.stack([x.ravel(), y.ravel()]) / (energy.bilateral_std * energy.scale)
    return np.concatenate([place, image.reshape(-1, 3).T / energy.colour_std]).astype(np.float32)
