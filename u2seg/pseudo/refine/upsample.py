"""No refinement: the scores of the grid, interpolated.

Shapes: ``C`` channels of scores; ``h, w`` grid; ``H, W`` image pixels.
"""

from __future__ import annotations

import numpy as np


class Upsample:
    """Bilinear interpolation to pixels; the image's own edges are not looked at."""

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores float32 (C, H, W) of ``image`` uint8 (H, W, 3), interpolated from ``scores`` float32 (C, h, w)."""
        from u2seg.pseudo.refine.resize import resize_scores

        return resize_scores(scores, *image.shape[:2])
