"""The small network that a learned stuff segmenter puts on frozen features.

Shapes: ``B`` images; ``h, w`` feature grid; ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes;
``M`` vectors.

The head is STEGO's (ICLR 2022): ``code = linear(f) + mlp(f)``, where ``f`` are features after dropout. Its
classes are unit vectors in the space of codes, and a patch belongs to the nearest by cosine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from u2seg.errors import UsageError
from u2seg.pseudo.centres import fill_empty, learn_centres


class CodeHead(nn.Module):
    """Features float32 (B, D, h, w) to codes float32 (B, C, h, w); training drops channels of the whole image."""

    def __init__(self, dim: int, code_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout2d(dropout)
        self.linear = nn.Conv2d(dim, code_dim, 1)
        self.mlp = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, code_dim, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Codes of ``features``."""
        kept = self.dropout(features)
        return self.linear(kept) + self.mlp(kept)

    @torch.no_grad()
    def transform(self, mean: torch.Tensor, axes: torch.Tensor) -> None:
        """Put ``code -> (code - mean) @ axes`` into the last layers; ``mean`` float32 (C,), ``axes`` float32 (C, C)."""
        layers: list[Any] = [self.linear, self.mlp[2]]
        for layer, offset in zip(layers, (mean, torch.zeros_like(mean)), strict=True):
            layer.weight.copy_(torch.einsum("cdhw,ce->edhw", layer.weight, axes))
            layer.bias.copy_((layer.bias - offset) @ axes)


class ClusterProbe(nn.Module):
    """S vectors of C channels that a patch's code is compared with."""

    def __init__(self, code_dim: int, num_classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, code_dim))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine float32 (B, S, h, w) of each code (B, C, h, w) with each centre."""
        return torch.einsum("bchw,sc->bshw", normalize(codes.float(), dim=1), normalize(self.centres.float(), dim=1))

    def loss(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine k-means: minus the mean cosine of each code with its nearest centre."""
        return -self(codes).max(dim=1).values.mean()


def whitening(codes: torch.Tensor, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean float32 (C,) and axes float32 (C, C) that whiten ``codes`` float32 (M, C).

    They divide each principal component by its standard deviation to the ``power``: 0 only centres and rotates, 1 makes
    all components count alike.
    """
    mean = codes.mean(dim=0)
    centred = (codes - mean).double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(codes))
    floor = 1e-3 * variances[-1].clamp(min=1e-12)
    return mean, (axes * variances.clamp(min=floor) ** (-power / 2)).to(codes.dtype)


def spherical_kmeans(vectors: torch.Tensor, count: int, seed: int, starts: int = 3, steps: int = 30) -> torch.Tensor:
    """Unit centres float32 (S, C), the best of ``starts``, of the directions of ``vectors`` float32 (M, C).

    Raises:
        UsageError: there are fewer vectors, or fewer distinct ones, than ``count``, S.
    """
    if len(vectors) < count:
        raise UsageError(f"{len(vectors)} patches are too few for {count} classes: add photos, or ask for fewer")
    unit = normalize(vectors, dim=1).cpu().numpy()
    centres = fill_empty(unit, learn_centres(unit, count, seed, n_init=starts, max_iter=steps))
    return normalize(torch.from_numpy(centres), dim=1).to(vectors.device)
