"""How much a mask looks like a thing, judged without labels.

Shapes: ``h, w`` feature grid, n = h * w cells; ``D`` channels; ``N`` masks.
"""

from __future__ import annotations

import numpy as np

RING = 2
"""Width in cells of the surround that a mask is compared with."""


def mask_scores(masks: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Score in [0, 1] of each of ``masks`` bool (N, h, w): contrast x inner outline squared x radius, float32 (N,).

    A thing stands out from what is around it, does not run off the photo, and is compact rather than a sliver; and
    small masks, which are right less often, rank below large ones. ``docs/research/masks.md`` has what each
    factor is worth.
    """
    scores = contrast(masks, features) * inner_outline(masks) ** 2 * radius(masks)
    return np.clip(scores, 0, 1).astype(np.float32)


def unit_cells(features: np.ndarray) -> np.ndarray:
    """Cells of unit length float32 (n, D) of features float32 (D, h, w)."""
    cells = features.reshape(len(features), -1)
    return np.ascontiguousarray((cells * _inverse_length(cells)).T, np.float32)


def contrast(masks: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Half of 1 - cosine between mean unit feature inside and in the ring of `RING` cells around, in [0, 1], (N,)."""
    cells = features.reshape(len(features), -1)
    ring = dilate(masks, RING) & ~masks
    # Masks are far fewer numbers than features, so they carry the lengths that make cells unit.
    weights = np.concatenate([masks, ring]).reshape(2 * len(masks), cells.shape[1]) * _inverse_length(cells)
    inside, outside = np.split(weights @ cells.T, 2)
    length = np.linalg.norm(inside, axis=1) * np.linalg.norm(outside, axis=1)
    cosine = (inside * outside).sum(axis=1) / np.maximum(length, 1e-12)
    return np.where(length > 0, 0.5 * (1 - cosine), 0)


def _inverse_length(cells: np.ndarray) -> np.ndarray:
    """1 / length of each column of ``cells`` float32 (D, n), finite for zeros, float32 (n,)."""
    return 1 / np.maximum(np.sqrt(np.einsum("dn,dn->n", cells, cells)), np.float32(1e-12))


def inner_outline(masks: np.ndarray) -> np.ndarray:
    """Share of the outline of each mask bool (N, h, w) that does not lie on the image border, float64 (N,)."""
    on_border = sum(side.sum(axis=1) for side in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]))
    return 1 - on_border / np.maximum(outline(masks), 1)


def radius(masks: np.ndarray) -> np.ndarray:
    """Side of the square that has the mask's ratio of area to outline, as a share of the grid's, float64 (N,)."""
    cells = masks.sum(axis=(1, 2))
    return 4 * cells / np.maximum(outline(masks), 1) / np.sqrt(masks[0].size if len(masks) else 1)


def outline(masks: np.ndarray) -> np.ndarray:
    """Length of the outline of each mask bool (N, h, w) in cell edges, image border included, int64 (N,)."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    upright = (padded[:, 1:] != padded[:, :-1]).sum(axis=(1, 2))
    return upright + (padded[:, :, 1:] != padded[:, :, :-1]).sum(axis=(1, 2))


def dilate(masks: np.ndarray, steps: int) -> np.ndarray:
    """Masks bool (N, h, w) grown by ``steps`` cells along rows and columns."""
    grown = masks
    for _ in range(steps):
        wider = grown.copy()
        wider[:, 1:] |= grown[:, :-1]
        wider[:, :-1] |= grown[:, 1:]
        wider[:, :, 1:] |= grown[:, :, :-1]
        wider[:, :, :-1] |= grown[:, :, 1:]
        grown = wider
    return grown
