"""How much a mask looks like a thing, judged without labels.

Shapes: ``h, w`` feature grid; ``D`` channels; ``N`` masks.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

RING = 2
"""Width in cells of the surround that a mask is compared with."""

_CROSS = ndimage.generate_binary_structure(2, 1)


def mask_scores(masks: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Score in [0, 1] of each mask: contrast x border x sqrt(area), float32 (N,).

    * contrast, in [0, 1]: half of 1 - cosine between the mean feature inside and in a ring of `RING` cells around;
    * border, in [0, 1]: share of the mask's outline that does not lie on the image border;
    * area: share of the grid, so small masks, which are right less often, rank below large ones.

    Args:
        masks: bool (N, h, w).
        features: float32 (D, h, w).
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=0), 1e-12)
    scores = [contrast(mask, unit) * inner_outline(mask) * np.sqrt(mask.mean()) for mask in masks]
    return np.clip(np.array(scores, np.float32), 0, 1)


def contrast(mask: np.ndarray, unit: np.ndarray) -> float:
    """Half of 1 - cosine of mean ``unit`` features (D, h, w) inside ``mask`` bool (h, w) and in the ring around it."""
    ring = ndimage.binary_dilation(mask, _CROSS, iterations=RING) & ~mask
    if not ring.any() or not mask.any():
        return 0.0
    inside, outside = unit[:, mask].mean(axis=1), unit[:, ring].mean(axis=1)
    length = np.linalg.norm(inside) * np.linalg.norm(outside)
    return float(0.5 * (1 - inside @ outside / max(length, 1e-12)))


def inner_outline(mask: np.ndarray) -> float:
    """Share of the outline of ``mask`` bool (h, w), in cell edges, that does not lie on the image border."""
    padded = np.pad(mask, 1)
    outline = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    on_border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
    return float(1 - on_border / max(outline, 1))
