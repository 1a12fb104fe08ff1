"""Score maps and images between grids that cover the same image.

Shapes: ``C`` channels; ``h, w`` grid of the scores; ``H, W`` target grid. Cell ``i`` of ``n`` covers the share
``[i / n, (i + 1) / n]`` of the image's side, so centres lie at ``(i + 0.5) / n``.
"""

from __future__ import annotations

import numpy as np


class Upsample:
    """Bilinear interpolation to pixels; the image's own edges are not looked at."""

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores float32 (C, H, W) of ``image`` uint8 (H, W, 3), interpolated from ``scores`` float32 (C, h, w)."""
        return resize_scores(scores, *image.shape[:2])


def resize_scores(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation of ``scores`` float (C, h, w) at the centres of the target grid, float32 (C, H, W)."""
    import torch

    scores = np.array(scores, np.float32, order="C")
    if scores.shape[1:] == (height, width):
        return scores
    resized = torch.nn.functional.interpolate(torch.from_numpy(scores)[:, None], (height, width), mode="bilinear")
    return resized[:, 0].numpy()


def shrink_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` uint8 (H, W, 3) averaged over the cells of a coarser grid, uint8 (height, width, 3)."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
