"""Dense CRF by pydensecrf, which the paper uses.

Shapes: ``C`` channels of scores; ``h, w`` grid of the scores; ``H, W`` image pixels; ``Y, X`` working grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import UsageError
from u2seg.pseudo.refine.energy import DenseEnergy


@dataclass(frozen=True, kw_only=True)
class DenseCRFRefiner(DenseEnergy):
    """Dense CRF (Krähenbühl & Koltun 2011) by the compiled pydensecrf, with the paper's constants."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _pydensecrf()

    def refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`refine` for each of ``many``; what depends on the image alone is built once for each C."""
        from u2seg.pseudo.refine.resize import resize_scores

        small = np.array(self.shrink(image), order="C")  # pydensecrf takes no read-only array
        height, width = small.shape[:2]
        fields: dict[int, Any] = {}
        for scores in many:
            count = len(scores)
            if count not in fields:
                fields[count] = self._field(small, count)
            unary = self.unary(scores, height, width).reshape(count, -1)
            fields[count].setUnaryEnergy(np.ascontiguousarray(unary))
            found = np.array(fields[count].inference(self.iterations), np.float32)
            yield resize_scores(found.reshape(count, height, width), *image.shape[:2])

    def _field(self, image: np.ndarray, count: int) -> Any:
        """A field of ``count`` labels with both kernels on ``image`` uint8 (Y, X, 3), no unary yet."""
        field = _pydensecrf().DenseCRF2D(image.shape[1], image.shape[0], count)
        field.addPairwiseGaussian(sxy=self.position_std * self.scale, compat=self.position_weight)
        field.addPairwiseBilateral(
            sxy=self.bilateral_std * self.scale,
            srgb=self.colour_std,
            rgbim=image,
            compat=self.bilateral_weight,
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
