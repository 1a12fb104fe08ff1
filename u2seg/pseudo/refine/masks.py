"""Bring masks and stuff of one image from any grid to its pixels by a refiner.

Shapes: ``N`` masks; ``S`` stuff classes; ``h, w`` any grid that covers the image; ``H, W`` image pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from u2seg.errors import DataError
from u2seg.plugins.api import Refiner
from u2seg.pseudo.refine.resize import resize_scores
from u2seg.structures import STUFF_VOID, MaskSet

CONFIDENCE = 0.9
"""Probability that a mask of the grid is right, where the grid says it is; sets the unary term of the refiners."""


def refine_masks(
    refiner: Refiner,
    image: np.ndarray,
    coarse: MaskSet,
    min_iou: float,
    keep_rough: bool = False,
    inside: np.ndarray | None = None,
) -> MaskSet:
    """Masks at the pixels of ``image`` uint8 (H, W, 3), bool (N', H, W), in their old order and with their old scores.

    The refiner gets two channels for a mask, `CONFIDENCE` inside and one minus it outside. A mask is dropped where
    nothing is left of it, or where it has become another: IoU of the refined mask with the interpolated one below
    ``min_iou`` (MaskCut, CutLER, CVPR 2023, section 3.2). With ``keep_rough`` it stays, as it was interpolated.

    ``inside`` float32 (N, h, w) says how much of a cell is in a mask; the masks themselves, 0 or 1, if it is None.
    """
    inside = coarse.masks if inside is None else inside
    channels = (np.stack([1 - probability, probability]) for probability in map(_probability, inside))
    kept, masks = [], []
    for index, refined in enumerate(_refine_each(refiner, image, channels)):
        after = refined[1] > refined[0]
        before = resize_scores(inside[index : index + 1], *image.shape[:2])[0] > 0.5
        if not after.any() or mask_iou(before, after) < min_iou:
            after = before & keep_rough
        if after.any():
            kept.append(index)
            masks.append(after)
    return MaskSet(np.stack(masks), coarse.scores[kept]) if kept else MaskSet.empty(*image.shape[:2])


def _probability(inside: np.ndarray) -> np.ndarray:
    """Probability float32 (h, w) of a mask: `CONFIDENCE` where ``inside`` (h, w) is 1, one minus it where it is 0."""
    share = inside.astype(np.float32)
    return share * np.float32(CONFIDENCE) + (1 - share) * np.float32(1 - CONFIDENCE)


def mask_iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks bool (H, W); 0 where both are empty."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 0.0


def refine_stuff(refiner: Refiner, image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Stuff map uint8 (H, W) in [0, S), 255 for none, of ``image`` uint8 (H, W, 3).

    Args:
        refiner: brings probabilities to pixels.
        image: the photo.
        coarse: what a stuff segmenter gives: probabilities float32 (S, h, w), which are refined, or finished labels
            uint8 (H, W), which stay as they are.

    What probabilities leave to 1 is the probability of no stuff. Classes that are nowhere the likeliest are left out,
    so the cost depends on what is in the photo and not on S.

    Raises:
        DataError: ``coarse`` is neither.
    """
    height, width = image.shape[:2]
    if coarse.dtype == np.uint8 and coarse.shape == (height, width):
        return coarse
    if coarse.ndim != 3 or not 0 < len(coarse) <= STUFF_VOID:
        raise DataError(f"stuff must be float (S, h, w) or uint8 {(height, width)}, not {coarse.dtype} {coarse.shape}")
    void = np.clip(1 - coarse.sum(axis=0, dtype=np.float32), 0, 1)
    scores = np.concatenate([coarse.astype(np.float32, copy=False), void[None]])
    present = np.unique(scores.argmax(axis=0))
    labels = np.append(np.arange(len(coarse)), STUFF_VOID).astype(np.uint8)[present]
    if len(present) == 1:
        return np.full((height, width), labels[0], np.uint8)
    (refined,) = _refine_each(refiner, image, [np.ascontiguousarray(scores[present])])
    return labels[_likeliest(refined)]


def _likeliest(scores: np.ndarray) -> np.ndarray:
    """The channel of the highest of ``scores`` float32 (C, H, W) at each pixel, the first of equals: uint8 (H, W).

    Map by map, which is three times as quick as ``argmax`` over the first axis.
    """
    best, highest = np.zeros(scores.shape[1:], np.uint8), scores[0].copy()
    for channel in range(1, len(scores)):
        best[scores[channel] > highest] = channel
        np.maximum(highest, scores[channel], out=highest)
    return best


def _refine_each(refiner: Refiner, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Refined scores float32 (C, H, W) of each of ``many``, one at a time.

    A refiner may have ``refine_many(image, many) -> Iterator``, to share what depends on the image alone.
    """
    if hasattr(refiner, "refine_many"):
        yield from refiner.refine_many(image, many)
    else:
        yield from (refiner.refine(image, scores) for scores in many)
