"""Dense CRF by mean field: by pydensecrf, which the paper uses, or without a compiler, on a lattice of sparse matrices.

Shapes: ``N`` score maps that are refined together; ``C`` channels of each, one for a label; ``h, w`` grid of the
scores; ``H, W`` image pixels; ``Y, X`` working grid, ``P = Y X``.

The energy is that of Krähenbühl & Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials"
(NIPS 2011), section 4: a Potts model over all pairs of pixels with a smoothness kernel (position) and an appearance
kernel (position and colour), minimised by mean field.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import UsageError, within
from u2seg.pseudo.refine.resize import resize_scores, shrink_image

if TYPE_CHECKING:
    import torch

FLOOR = 1e-5
"""Smallest probability, so that its logarithm is finite."""
MOST_TOGETHER = 16
"""Score maps that are refined together; more take more memory and gain little."""

MeanFieldFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class DenseEnergy:
    """Constants of the energy; the defaults are the paper's.

    Args:
        iterations: steps of mean field; 5 give masks of IoU 0.98 with those of 10.
        scale: working grid over image size; 0.5 is some 3 times faster, masks of IoU 0.96 with full size.
        position_weight: weight of the smoothness kernel.
        position_std: its standard deviation, pixels of the image.
        bilateral_weight: weight of the appearance kernel.
        bilateral_std: its standard deviation in space, pixels of the image.
        colour_std: its standard deviation in colour, of 0..255.

    Raises:
        UsageError: a constant is out of range.
    """

    iterations: int = 10
    scale: float = 1.0
    position_weight: float = 7.0
    position_std: float = 3.0
    bilateral_weight: float = 10.0
    bilateral_std: float = 50.0
    colour_std: float = 5.0

    def __post_init__(self) -> None:
        within("iterations", self.iterations, 1, whole=True)
        within("scale", self.scale, 1e-3, 1)
        for name in ("position_std", "bilateral_std", "colour_std"):
            within(name, getattr(self, name), 1e-6)
        for name in ("position_weight", "bilateral_weight"):
            within(name, getattr(self, name), 0)

    def unary(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """Energy -log p float32 (N, C, Y, X) of probabilities ``scores`` float32 (N, C, h, w)."""
        resized = resize_scores(scores.reshape(-1, *scores.shape[2:]), height, width)
        return -np.log(np.clip(resized, FLOOR, 1.0)).reshape(*scores.shape[:2], height, width)

    def refine(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (C, H, W) of ``image`` uint8 (H, W, 3) from probabilities float32 (C, h, w)."""
        return next(self.refine_many(image, [scores]))

    def refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """`refine` for each of ``many``; what depends on the image alone is built once."""
        remaining = iter(many)
        while chunk := list(itertools.islice(remaining, MOST_TOGETHER)):
            for _, alike in itertools.groupby(chunk, key=np.shape):
                for marginals in self._mean_field_of(image)(np.stack(list(alike))):
                    yield resize_scores(marginals, *image.shape[:2])

    def _mean_field_of(self, image: np.ndarray) -> MeanFieldFunction:
        """`mean_field` on the working grid of ``image``; the last one is kept, since masks and stuff ask in turn."""
        last, infer = self.__dict__.get("_last", (lambda: None, None))
        if last() is not image:
            height, width = (max(1, round(self.scale * side)) for side in image.shape[:2])
            infer = self.mean_field(shrink_image(image, height, width))
            self.__dict__["_last"] = (weakref.ref(image), infer)
        return infer

    def mean_field(self, image: np.ndarray) -> MeanFieldFunction:
        """A function from probabilities float32 (N, C, h, w) to marginals (N, C, Y, X) on ``image`` uint8 (Y, X, 3)."""
        raise NotImplementedError


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


@dataclass(frozen=True, kw_only=True)
class BilateralRefiner(DenseEnergy):
    """Dense CRF (Krähenbühl & Koltun 2011) in torch and scipy, by default at half resolution and with 5 steps."""

    iterations: int = 5
    scale: float = 0.5

    def mean_field(self, image: np.ndarray) -> MeanFieldFunction:
        """As `DenseEnergy.mean_field`."""
        return MeanField(self, image).infer


class MeanField:
    """Both kernels of ``energy`` on ``image`` uint8 (Y, X, 3), each normalised symmetrically (D^-1/2 K D^-1/2)."""

    def __init__(self, energy: DenseEnergy, image: np.ndarray) -> None:
        import torch

        from u2seg.pseudo.refine.lattice import TINY, PermutohedralLattice

        self.energy, self.shape = energy, image.shape[:2]
        self._lattice = PermutohedralLattice(positions(energy, image))
        self._lattice.normalise(energy.bilateral_weight)
        ones = torch.ones(image.shape[0] * image.shape[1], 1)
        self._smooth_norm = (self._blur(ones) + TINY).rsqrt()
        self._message_of_ones = self._message(ones)

    def infer(self, scores: np.ndarray) -> np.ndarray:
        """Marginals float32 (N, C, Y, X) from probabilities ``scores`` float32 (N, C, h, w)."""
        import torch

        count, labels = scores.shape[:2]
        unary = torch.from_numpy(self.energy.unary(scores, *self.shape)).reshape(count, labels, -1).permute(2, 0, 1)
        # The marginals of a pixel sum to 1, so the last label's are what the others leave, and so is its message, of
        # the message of all ones: what counts is how much likelier the others are than the last, (P, N, C - 1).
        likelier = (unary[..., -1:] - unary[..., :-1]).contiguous()
        marginals = _softmax(likelier)
        likelier -= self._message_of_ones[..., None]
        for _ in range(self.energy.iterations):
            messages = self._message(marginals.flatten(1)).reshape(likelier.shape)
            marginals = _softmax(messages + messages.sum(-1, keepdim=True) + likelier)
        every = torch.cat([marginals, 1 - marginals.sum(-1, keepdim=True)], -1)
        return every.permute(1, 2, 0).reshape(count, labels, *self.shape).contiguous().numpy()

    def _message(self, marginals: torch.Tensor) -> torch.Tensor:
        """Weighted sum float32 (P, n) of both kernels applied to ``marginals`` float32 (P, n)."""
        smooth = self._blur(marginals * self._smooth_norm)
        return self._lattice.filter(marginals).addcmul_(smooth, self._smooth_norm, value=self.energy.position_weight)

    def _blur(self, values: torch.Tensor) -> torch.Tensor:
        """Gaussian of the position alone, float32 (P, n), cut at 4 deviations; nothing comes from outside the image."""
        import torch
        from torch.nn.functional import conv2d

        sigma, channels = self.energy.position_std * self.energy.scale, values.shape[1]
        radius = int(4 * sigma + 0.5)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1).contiguous()
        maps = values.reshape(1, *self.shape, channels).permute(0, 3, 1, 2)  # channels last, which is what is fast
        for weight, padding in ((kernel, (0, radius)), (kernel.mT.contiguous(), (radius, 0))):
            maps = conv2d(maps, weight, padding=padding, groups=channels)
        return maps.permute(0, 2, 3, 1).reshape(values.shape)


def _softmax(likelier: torch.Tensor) -> torch.Tensor:
    """Probabilities float32 (..., C - 1) of all labels but the last, from the log of how much ``likelier`` each is."""
    if likelier.shape[-1] == 1:
        return likelier.sigmoid()
    # torch's own softmax over a short last dimension takes twice as long.
    highest = likelier.amax(-1, keepdim=True).clamp_(min=0)
    powers = (likelier - highest).exp_()
    return powers.div_(powers.sum(-1, keepdim=True) + (-highest).exp_())


def positions(energy: DenseEnergy, image: np.ndarray) -> np.ndarray:
    """Place and colour of each pixel in standard deviations, float32 (5, P)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    place = np.stack([x.ravel(), y.ravel()]) / (energy.bilateral_std * energy.scale)
    return np.concatenate([place, image.reshape(-1, 3).T / energy.colour_std]).astype(np.float32)
