"""What the dense CRF refiners share: their constants, and the grid that they work on.

Shapes: ``C`` channels of scores; ``h, w`` grid of the scores; ``H, W`` image pixels; ``Y, X`` working grid.

The energy is that of Krähenbühl & Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials"
(NIPS 2011), section 4: a Potts model over all pairs of pixels with a smoothness kernel (position) and an appearance
kernel (position and colour), minimised by mean field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.errors import UsageError
from u2seg.pseudo.refine.resize import resize_scores, shrink_image

FLOOR = 1e-5
"""Smallest probability, so that its logarithm is finite."""


@dataclass(frozen=True)
class DenseEnergy:
    """Constants of the energy, lengths in pixels of the image in its own size, colours in 0..255."""

    iterations: int
    scale: float
    position_weight: float
    position_std: float
    bilateral_weight: float
    bilateral_std: float
    colour_std: float

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise UsageError(f"iterations must be a whole number of at least 1, not {self.iterations!r}")
        if not 0 < self.scale <= 1:
            raise UsageError(f"scale must be above 0 and at most 1 (0.5 works at half resolution), not {self.scale!r}")
        for name in ("position_std", "bilateral_std", "colour_std"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name in ("position_weight", "bilateral_weight"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)!r}")

    def shrink(self, image: np.ndarray) -> np.ndarray:
        """``image`` uint8 (H, W, 3) on the working grid, uint8 (Y, X, 3)."""
        height, width = (max(1, round(self.scale * side)) for side in image.shape[:2])
        return shrink_image(image, height, width)

    def unary(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """Energy -log p float32 (C, Y, X) of probabilities ``scores`` float32 (C, h, w)."""
        probabilities = resize_scores(scores, height, width)
        return -np.log(np.clip(probabilities, FLOOR, 1.0))
