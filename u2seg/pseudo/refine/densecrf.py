"""Dense CRF by pydensecrf, which the paper uses.

Shapes: ``C`` channels of scores; ``h, w`` grid of the scores; ``Y, X`` working grid.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def mean_field(self, image: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """As `DenseEnergy.mean_field`; the kernels are built once for each number of channels."""
        image = np.array(image, order="C")  # pydensecrf takes no read-only array
        fields: dict[int, Any] = {}

        def infer(scores: np.ndarray) -> np.ndarray:
            count = len(scores)
            if count not in fields:
                fields[count] = self._field(image, count)
            unary = self.unary(scores, *image.shape[:2]).reshape(count, -1)
            fields[count].setUnaryEnergy(np.ascontiguousarray(unary))
            marginals = np.array(fields[count].inference(self.iterations), np.float32)
            return marginals.reshape(count, *image.shape[:2])

        return infer

    def _field(self, image: np.ndarray, count: int) -> Any:
        """A field of ``count`` labels with both kernels on ``image`` uint8 (Y, X, 3), no unary yet."""
        field = _pydensecrf().DenseCRF2D(image.shape[1], image.shape[0], count)
        field.addPairwiseGaussian(sxy=self.position_std * self.scale, compat=self.position_weight)
        field.addPairwiseBilateral(
            sxy=self.bilateral_std * self.scale, srgb=self.colour_std, rgbim=image, compat=self.bilateral_weight
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
