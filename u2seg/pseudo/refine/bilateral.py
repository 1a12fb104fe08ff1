"""Dense CRF without a compiler: mean field on a permutohedral lattice of sparse matrices.

Shapes: ``C`` channels of scores; ``h, w`` grid of the scores; ``H, W`` image pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class BilateralRefiner:
    """Dense CRF (Krähenbühl & Koltun 2011) in numpy and scipy, by default at half resolution and with 5 steps."""

    def __init__(
        self,
        *,
        iterations: int = 5,
        scale: float = 0.5,
        position_weight: float = 7.0,
        position_std: float = 3.0,
        bilateral_weight: float = 10.0,
        bilateral_std: float = 50.0,
        colour_std: float = 5.0,
    ) -> None:
        """Set the constants.

        Args:
            iterations: steps of mean field.
            scale: working grid over image size; one third is twice as fast, and measured as good on real masks.
            position_weight: weight of the smoothness kernel.
            position_std: its standard deviation, pixels of the image.
            bilateral_weight: weight of the appearance kernel.
            bilateral_std: its standard deviation in space, pixels of the image.
            colour_std: its standard deviation in colour, of 0..255.

        Raises:
            UsageError: a constant is out of range.
        """
        from u2seg.pseudo.refine.energy import DenseEnergy

        self.energy = DenseEnergy(
            iterations, scale, position_weight, position_std, bilateral_weight, bilateral_std, colour_std
        )

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (C, H, W) of ``image`` uint8 (H, W, 3) from probabilities float32 (C, h, w)."""
        return next(self.refine_many(image, [scores]))

    def refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`refine` for each of ``many``; the lattice of the image is built once."""
        from u2seg.pseudo.refine.meanfield import MeanField
        from u2seg.pseudo.refine.resize import resize_scores

        field = None
        for scores in many:
            field = field or MeanField(self.energy, self.energy.shrink(image))
            yield resize_scores(field.infer(scores), *image.shape[:2])
