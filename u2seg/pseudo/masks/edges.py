"""Where between the cells of its grid the outline of a mask runs, told by the features on both sides of it.

Shapes: ``h, w`` feature grid, n = h * w cells; ``D`` channels; ``N`` masks.

Comparing with the means of both sides nearby is Lankton & Tannenbaum, "Localizing region-based active contours" (IEEE
TIP 2008), who move an outline by them; that they tell how much of a cell is inside is ours.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from u2seg.pseudo.masks.scoring import dilate, unit_cells

REACH = 3
"""Cells are compared with those of both sides that are at most this far away, in cells."""


def soft_edges(masks: np.ndarray, features: np.ndarray) -> np.ndarray:
    """How much of each cell lies in each of ``masks`` bool (N, h, w): float32 (N, h, w) in [0, 1].

    A cell that the outline runs through shows both sides, and so do its features: they are about as like the cells
    inside as those outside. So a cell at the outline leans to one side by its mean cosine with what is inside nearby,
    less that with what is outside nearby. One that leans to neither lies half in the mask; one that leans as much as
    cells at the outline do on average, wholly in or out. Elsewhere shares are 1 and 0.
    ``docs/research/proposals.md`` says what it is worth.

    Args:
        masks: on the grid of the features.
        features: float32 (D, h, w).
    """
    if not len(masks):
        return np.zeros(masks.shape, np.float32)
    cells, near = unit_cells(features), _near(*masks.shape[1:])
    alike = (cells @ cells.T) * near
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    inside, count = flat @ alike, flat @ near
    outside, others = alike.sum(axis=1) - inside, near.sum(axis=1) - count
    lean = (inside / np.maximum(count, 1) - outside / np.maximum(others, 1)).reshape(masks.shape)
    inner, outer = masks & dilate(~masks, 1), dilate(masks, 1) & ~masks
    # Not above 0 where the features contradict the mask: a cell then goes wholly to the side that it is more like.
    spread = (_mean(lean, inner) - _mean(lean, outer)) / 2
    share = 0.5 + 0.5 * np.clip(lean / np.maximum(spread, 1e-6)[:, None, None], -1, 1)
    return np.where(inner | outer, share, masks).astype(np.float32)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean of ``values`` (N, h, w) ``where`` bool (N, h, w), 0 for nowhere, (N,)."""
    return (values * where).sum(axis=(1, 2)) / np.maximum(where.sum(axis=(1, 2)), 1)


@lru_cache(maxsize=4)
def _near(height: int, width: int) -> np.ndarray:
    """Whether cells lie within `REACH` of each other, 0 or 1, float32 (n, n); no cell is near itself."""
    y, x = np.divmod(np.arange(height * width), width)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    return ((squared <= REACH**2) & (squared > 0)).astype(np.float32)
