"""Dense CRF by pydensecrf, which the paper uses.

Shapes: ``N`` score maps of ``C`` channels; ``h, w`` their grid; ``Y, X`` working grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import UsageError
from u2seg.pseudo.refine.energy import DenseEnergy, MeanFieldFunction


@dataclass(frozen=True, kw_only=True)
class DenseCRFRefiner(DenseEnergy):
    """Dense CRF (Krähenbühl & Koltun 2011) by the compiled pydensecrf, with the paper's constants."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _pydensecrf()

    def mean_field(self, image: np.ndarray) -> MeanFieldFunction:
        """As `DenseEnergy.mean_field`; the kernels are built once for each number of channels."""
        image = np.array(image, order="C")  # pydensecrf takes no read-only array
        fields: dict[int, Any] = {}

        def infer(scores: np.ndarray) -> np.ndarray:
            count = scores.shape[1]
            if count not in fields:
                fields[count] = self._field(image, count)
            unaries = self.unary(scores, *image.shape[:2]).reshape(len(scores), count, -1)
            marginals = np.empty_like(unaries)
            for unary, result in zip(unaries, marginals, strict=True):
                fields[count].setUnaryEnergy(np.ascontiguousarray(unary))
                result[:] = fields[count].inference(self.iterations)
            return marginals.reshape(len(scores), count, *image.shape[:2])

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
