"""The rule of a round of self-training: what of a model's predictions and of the earlier labels makes the new labels.

CutLER (CVPR 2023), section 3.4, for things; stuff, which CutLER has not, by the same thought.

Shapes: ``H, W`` pixels; ``P`` predicted masks; ``N`` masks of the earlier labels; ``S`` stuff classes.
"""

from __future__ import annotations

import numpy as np

from u2seg.structures import MaskSet


def merge_things(
    predicted: MaskSet, earlier: MaskSet, *, min_score: float, max_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the things of the next round.

    A prediction is kept if its score is above ``min_score`` and its IoU with no better one that is kept is above
    ``max_iou`` (a detector suppresses doubles within a class; here one thing may be seen as two classes). An earlier
    mask stays if its IoU with no prediction that is kept is above ``max_iou``.

    Args:
        predicted: masks bool (P, H, W).
        earlier: masks bool (N, H, W).
        min_score: in [0, 1].
        max_iou: in [0, 1].

    Returns:
        Indices int64 of the predictions that are kept, best first, and of the earlier masks that stay, in order.
    """
    order = np.argsort(-predicted.scores, kind="stable")
    order = order[predicted.scores[order] > min_score]
    overlap = mask_iou(predicted.masks[order], predicted.masks[order]) > max_iou
    places: list[int] = []
    for place in range(len(order)):
        if not overlap[place, places].any():
            places.append(place)
    kept = order[np.array(places, np.int64)]
    replaced = (mask_iou(predicted.masks[kept], earlier.masks) > max_iou).any(axis=0)
    return kept, np.flatnonzero(~replaced)


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU float64 (P, N) of each mask of ``first`` bool (P, H, W) with each of ``second`` bool (N, H, W)."""
    from pycocotools import mask as coco

    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    codes = (coco.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8)) for masks in (first, second))
    return coco.iou(*codes, [0] * len(second))


def merge_stuff(classes: np.ndarray, confidence: np.ndarray, earlier: np.ndarray, min_confidence: float) -> np.ndarray:
    """Stuff uint8 (H, W) in [0, S), 255 for none: the model's where it is confident, the label's elsewhere.

    "A thing" is no stuff, so where the model says that, the label stays: either a mask covers it, or nothing is known.

    Args:
        classes: int (H, W), the model's class, 0 for "a thing", 1..S for stuff.
        confidence: float (H, W) in [0, 1], the probability of that class.
        earlier: uint8 (H, W) in [0, S), 255 for none.
        min_confidence: in [0, 1].
    """
    sure = (confidence >= min_confidence) & (classes > 0)
    return np.where(sure, classes.astype(np.int64) - 1, earlier).astype(np.uint8)
