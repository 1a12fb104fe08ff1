"""Dense CRF by pydensecrf, which the paper uses.

Shapes: ``C`` channels of scores; ``h, w`` grid of the scores; ``H, W`` image pixels; ``Y, X`` working grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from u2seg.errors import UsageError


class DenseCRFRefiner:
    """Dense CRF (Krähenbühl & Koltun 2011) by the compiled pydensecrf, with the paper's constants."""

    def __init__(
        self,
        *,
        iterations: int = 10,
        scale: float = 1.0,
        position_weight: float = 7.0,
        position_std: float = 3.0,
        bilateral_weight: float = 10.0,
        bilateral_std: float = 50.0,
        colour_std: float = 5.0,
    ) -> None:
        """Set the constants.

        Args:
            iterations: steps of mean field; 5 give masks of IoU 0.98 with those of 10.
            scale: working grid over image size; 0.5 is some 3 times faster, masks of IoU 0.96 with full size.
            position_weight: weight of the smoothness kernel.
            position_std: its standard deviation, pixels of the image.
            bilateral_weight: weight of the appearance kernel.
            bilateral_std: its standard deviation in space, pixels of the image.
            colour_std: its standard deviation in colour, of 0..255.

        Raises:
            UsageError: a constant is out of range, or pydensecrf is not installed.
        """
        from u2seg.pseudo.refine.energy import DenseEnergy

        _pydensecrf()
        self.energy = DenseEnergy(
            iterations, scale, position_weight, position_std, bilateral_weight, bilateral_std, colour_std
        )

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (C, H, W) of ``image`` uint8 (H, W, 3) from probabilities float32 (C, h, w)."""
        return next(self.refine_many(image, [scores]))

    def refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`refine` for each of ``many``; what depends on the image alone is built once for each C."""
        from u2seg.pseudo.refine.resize import resize_scores

        small = np.array(self.energy.shrink(image), order="C")  # pydensecrf takes no read-only array
        height, width = small.shape[:2]
        fields: dict[int, Any] = {}
        for scores in many:
            count = len(scores)
            if count not in fields:
                fields[count] = self._field(small, count)
            unary = self.energy.unary(scores, height, width).reshape(count, -1)
            fields[count].setUnaryEnergy(np.ascontiguousarray(unary))
            found = np.array(fields[count].inference(self.energy.iterations), np.float32)
            yield resize_scores(found.reshape(count, height, width), *image.shape[:2])

    def _field(self, image: np.ndarray, count: int) -> Any:
        """A field of ``count`` labels with both kernels on ``image`` uint8 (Y, X, 3), no unary yet."""
        energy = self.energy
        field = _pydensecrf().DenseCRF2D(image.shape[1], image.shape[0], count)
        field.addPairwiseGaussian(sxy=energy.position_std * energy.scale, compat=energy.position_weight)
        field.addPairwiseBilateral(
            sxy=energy.bilateral_std * energy.scale,
            srgb=energy.colour_std,
            rgbim=image,
            compat=energy.bilateral_weight,
        )
        return field


def _pydensecrf() -> Any:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise UsageError(
            "refiner 'densecrf' needs pydensecrf: pip install 'u2seg[crf]' (a C++ compiler, Python 3.10 to 3.12), "
            "or set U2SEG.REFINE.NAME to bilateral, which needs no compiler"
        ) from error
    return densecrf
