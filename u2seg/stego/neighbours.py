"""Which crops look alike: nearest neighbours of pooled features.

Shapes: ``N`` vectors of ``D`` channels; ``k`` neighbours of each.
"""

from __future__ import annotations

import numpy as np
import torch

from u2seg.errors import UsageError
from u2seg.runtime import Progress

QUERIES, CHUNK = 1024, 65_536
"""Vectors of a block of queries, and of a block that they are compared with: at most 270 MB of cosines at a time."""


def nearest(vectors: np.ndarray, k: int, device: str = "cpu") -> np.ndarray:
    """The ``k`` nearest other vectors of each by cosine, best first, compared block by block.

    Args:
        vectors: float32 (N, D) of unit length.
        k: neighbours.
        device: torch device that compares.

    Returns:
        int32 (N, k), never a vector itself.

    Raises:
        UsageError: there are not more than ``k`` vectors.
    """
    if len(vectors) <= k:
        raise UsageError(
            f"{len(vectors)} crops are too few for {k} neighbours each (STEGO.NUM_NEIGHBOURS): add photos, or lower it"
        )
    blocks = []
    with Progress("nearest neighbours", len(vectors), "crop") as progress:
        for queries in torch.arange(len(vectors), device=device).split(QUERIES):
            blocks.append(_nearest_of_block(torch.from_numpy(vectors), queries, k).cpu())
            progress.advance(len(queries))
    return torch.cat(blocks).numpy().astype(np.int32)


def _nearest_of_block(vectors: torch.Tensor, queries: torch.Tensor, k: int) -> torch.Tensor:
    """Indices int64 (n, k) of the neighbours of the vectors at ``queries`` int64 (n,)."""
    device = queries.device
    asked = vectors[queries.cpu()].to(device)
    best = torch.full((len(queries), k), -2.0, device=device)
    indices = torch.zeros((len(queries), k), dtype=torch.long, device=device)
    for first in range(0, len(vectors), CHUNK):
        cosine = asked @ vectors[first : first + CHUNK].to(device).T
        column = torch.arange(first, first + cosine.shape[1], device=device)
        cosine.masked_fill_(queries[:, None] == column, -2.0)  # a vector is no neighbour of its own
        values, index = cosine.topk(min(k, len(column)), dim=1)
        best, order = torch.cat([best, values], 1).topk(k, dim=1)
        indices = torch.cat([indices, index + first], 1).gather(1, order)
    return indices
