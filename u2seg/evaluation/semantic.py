"""Pixel accuracy and mean IoU from overlaps.

Pixels that are void in the ground truth don't count; a pixel without a predicted class is a wrong one. The mean goes
over classes that the ground truth has (as in Detectron2's ``SemSegEvaluator``). Crowd regions count as their class.

Shapes: ``C`` classes; ``G`` true and ``P`` predicted segments of the set.
"""

from __future__ import annotations

import numpy as np

from u2seg.evaluation.joined import VOID, OverlapSet


def confusion_matrix(
    overlaps: OverlapSet, gt_class: np.ndarray, pred_class: np.ndarray, num_classes: int
) -> np.ndarray:
    """Pixels int64 (C, C+1): true class by predicted class, the last column for none.

    Args:
        overlaps: the set.
        gt_class: int64 (G,) in [0, C).
        pred_class: int64 (P,) in [0, C), -1 for none.
        num_classes: C.
    """
    keep = overlaps.pair_gt != VOID
    row = gt_class[overlaps.pair_gt[keep]]
    padded = np.append(np.where(pred_class == VOID, num_classes, pred_class), num_classes)
    column = padded[overlaps.pair_pred[keep]]  # VOID is -1, the last entry
    flat = row * (num_classes + 1) + column
    counts = np.bincount(flat, weights=overlaps.pixels[keep], minlength=num_classes * (num_classes + 1))
    return counts.astype(np.int64).reshape(num_classes, num_classes + 1)


def semantic_scores(confusion: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """``pixel_accuracy`` and ``miou`` in [0, 1] over the true pixels of ``chosen`` classes; nan if there are none.

    Args:
        confusion: int64 (C, C+1).
        chosen: bool (C,). Predictions of any class count on their pixels.
    """
    rows = confusion * chosen[:, None]
    iou = class_iou(rows)
    total, right = int(rows.sum()), int(np.diagonal(rows).sum())
    present = rows.sum(axis=1) > 0
    return {
        "pixel_accuracy": right / total if total else np.nan,
        "miou": float(iou[present].mean()) if present.any() else np.nan,
    }


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU float64 (C,) of each class in [0, 1], 0 where a class has no pixel; ``confusion`` int64 (C, C+1)."""
    right = np.diagonal(confusion)
    union = confusion.sum(axis=1) + confusion.sum(axis=0)[:-1] - right
    return np.divide(right, union, out=np.zeros(len(right)), where=union > 0)
