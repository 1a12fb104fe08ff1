"""The rule of a round of self-training: what of a model's predictions and of the labels before it makes the new labels.

CutLER (CVPR 2023), section 3.4, for things; stuff, which CutLER has not, by the same thought. numpy only.

Shapes: ``H, W`` pixels; ``P`` predicted masks; ``N`` masks of the labels before; ``S`` stuff classes.
"""

from __future__ import annotations

import numpy as np

from u2seg.structures import MaskSet


def score_threshold(start: float, step: float, round_number: int) -> float:
    """Score above which a predicted thing becomes a label in round ``round_number``, 1 being the first.

    CutLER prints 0.75 - 0.5 t, which is below zero from the second of its three rounds on; the default step is 0.05.
    """
    return start - step * round_number


def merge_things(
    predicted: MaskSet, before: MaskSet, *, min_score: float, max_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the things of the next round.

    A prediction is taken if its score is above ``min_score`` and its IoU with no better one that is taken is above
    ``max_iou`` (a detector suppresses doubles within a class; here one thing may be found as two classes). A mask of
    the labels before stays if its IoU with no prediction that is taken is above ``max_iou``.

    Args:
        predicted: masks bool (P, H, W).
        before: masks bool (N, H, W).
        min_score: in [0, 1].
        max_iou: in [0, 1].

    Returns:
        Indices int64 of the predictions that are taken, best first, and of the earlier masks that stay, in order.
    """
    order = np.argsort(-predicted.scores, kind="stable")
    order = order[predicted.scores[order] > min_score]
    overlap = mask_iou(predicted.masks[order], predicted.masks[order]) > max_iou
    taken: list[int] = []
    for place in range(len(order)):
        if not overlap[place, taken].any():
            taken.append(place)
    chosen = order[np.array(taken, np.int64)]
    replaced = (mask_iou(predicted.masks[chosen], before.masks) > max_iou).any(axis=0)
    return chosen, np.flatnonzero(~replaced)


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU float64 (P, N) of each mask of ``first`` bool (P, H, W) with each of ``second`` bool (N, H, W)."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    from pycocotools import mask as coco

    return coco.iou(_encode(first), _encode(second), [0] * len(second))


def _encode(masks: np.ndarray) -> list[dict[str, object]]:
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))


def merge_stuff(classes: np.ndarray, confidence: np.ndarray, before: np.ndarray, min_confidence: float) -> np.ndarray:
    """Stuff uint8 (H, W) in [0, S), 255 for none: the model's where it is confident, the label's elsewhere.

    "A thing" is no stuff, so where the model says that, the label stays: either a mask covers it, or nothing is known.

    Args:
        classes: int (H, W), the model's class, 0 for "a thing", 1..S for stuff.
        confidence: float (H, W) in [0, 1], the probability of that class.
        before: uint8 (H, W) in [0, S), 255 for none.
        min_confidence: in [0, 1].
    """
    sure = (confidence >= min_confidence) & (classes > 0)
    return np.where(sure, classes.astype(np.int64) - 1, before).astype(np.uint8)
