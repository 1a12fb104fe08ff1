"""From an eigenvector to a mask: which side of the cut is the thing, and which part of that side.

Shapes: ``h, w`` feature grid.

Sources: Wang et al., TokenCut (CVPR 2022), section 3.2; Wang et al., CutLER (CVPR 2023), section 3.2, whose corner rule
turns a foreground over that holds most corners of the image. Where both leave a case open,
``docs/research/masks.md`` decides.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

TIE = 1e-3
"""Nodes within this share of the peak count as tied with it; the first of them is the seed."""


def foreground(vector: np.ndarray, active: np.ndarray, max_corners: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The side of the cut that holds the thing, and its seed.

    The eigenvector is cut at its mean over active nodes. The side of the peak of |x| is the foreground, unless it
    holds more than ``max_corners`` image corners: then it is the other side, seeded at that side's own peak. Painted
    nodes belong to neither side. Nothing here depends on the eigenvector's arbitrary sign.

    Args:
        vector: float32 (h, w), eigenvector x.
        active: bool (h, w), nodes that no earlier mask has painted; at least one.
        max_corners: most of the 4 image corners that a thing may hold.

    Returns:
        bool (h, w), and the seed's row and column.
    """
    above = (vector > vector[active].mean()) & active
    seed = _peak(np.abs(vector), active)
    side = above if above[seed] else active & ~above
    corners = side[[0, 0, -1, -1], [0, -1, 0, -1]]
    if corners.sum() <= max_corners or not (active & ~side).any():
        return side, seed
    other = active & ~side
    return other, _peak(vector if above[np.nonzero(other)].any() else -vector, other)


def _peak(values: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
    """First place of ``allowed`` whose value is within `TIE` of the largest there."""
    top = values[allowed].max()
    index = int(np.flatnonzero((values >= top - TIE * abs(top)) & allowed)[0])
    return divmod(index, values.shape[1])


def seed_component(side: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The part of ``side`` bool (h, w) that is joined to ``seed`` through shared edges of cells."""
    labels, _ = ndimage.label(side)
    return labels == labels[seed]


def components(side: np.ndarray, min_cells: float) -> list[np.ndarray]:
    """Connected parts of ``side`` bool (h, w) of at least ``min_cells`` cells, largest first."""
    labels, count = ndimage.label(side)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind="stable")
    return [labels == index + 1 for index in order if areas[index] >= max(min_cells, 1)]
