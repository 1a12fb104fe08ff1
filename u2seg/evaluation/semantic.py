"""Pixel accuracy and mean IoU from overlaps, of panoptic maps and of a model's semantic head.

Pixels that are void in the ground truth don't count; a pixel without a predicted class is a wrong one. The mean goes
over classes that the ground truth has (as in Detectron2's ``SemSegEvaluator``). Crowd regions count as their class.

The semantic head labels every pixel: stuff whole, neither covered by things nor left out when small, and all things as
one class. `u2seg_paper` votes and scores stuff on this map, as the released evaluation of U2Seg does. There, a pixel of
a cluster without a class counts neither as right nor as wrong.

Shapes: ``L`` clusters and ``C`` classes, things first in both; ``G`` true and ``P`` predicted segments of the set;
``R`` regions (a photo's pixels of one stuff cluster in the head's map).
"""

from __future__ import annotations

import numpy as np

from u2seg.evaluation.tables import VOID, SetTable, count_grid


def confusion_matrix(
    table: SetTable, gt_class: np.ndarray, pred_class: np.ndarray, num_classes: int, outside: int | None = None
) -> np.ndarray:
    """Pixels int64 (C, C+1): true class by predicted class, the last column for none.

    Classes are ``gt_class`` int64 (G,) in [0, C) and ``pred_class`` int64 (P,), -1 for none; ``outside`` is that of
    pixels in no predicted segment, none by default.
    """
    keep = table.pair_gt != VOID
    row = gt_class[table.pair_gt[keep]]
    padded = np.append(
        np.where(pred_class == VOID, num_classes, pred_class), num_classes if outside is None else outside
    )
    column = padded[table.pair_pred[keep]]  # VOID is -1, the last entry
    return count_grid(row, column, table.pixels[keep], (num_classes, num_classes + 1))


def semantic_scores(confusion: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """``pixel_accuracy`` and ``miou`` in [0, 1] over the true pixels of ``chosen`` classes; nan if there are none.

    ``confusion`` is int64 (C, C+1), ``chosen`` bool (C,). Predictions of any class count on the pixels of those.
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


def head_scores(
    regions: SetTable, gt_class: np.ndarray, region_class: np.ndarray, class_isthing: np.ndarray
) -> dict[str, float]:
    """`semantic_scores` of a semantic head's map, in which void is "a thing", over that and the stuff classes.

    Classes are ``gt_class`` int64 (G,) in [0, C) and ``region_class`` int64 (R,), -1 for none.
    """
    column = np.append(np.where(class_isthing, 0, np.cumsum(~class_isthing)), VOID)  # things 0, stuff 1.., none VOID
    count = int(column.max()) + 1
    confusion = confusion_matrix(regions, column[gt_class], column[region_class], count, outside=0)
    confusion[:, -1] = 0
    return semantic_scores(confusion, np.ones(count, bool))


def renamed_in_place(of_cluster: np.ndarray, cluster_isthing: np.ndarray, class_isthing: np.ndarray) -> np.ndarray:
    """``of_cluster`` int64 (L,), -1 for none, as it is after a map was renamed cluster by cluster in the same array.

    The released evaluation does that: stuff clusters are 1..S and classes 1..T in one array, T + 1 for none, so that a
    pixel renamed to class 5 is renamed again when the turn comes to cluster 5.
    """
    things, stuff = int(class_isthing.sum()), np.flatnonzero(~cluster_isthing)
    none = len(class_isthing) - things + 1
    target = np.where(of_cluster[stuff] == VOID, none, of_cluster[stuff] - things + 1)
    value = np.arange(1, len(stuff) + 1)
    for cluster, new in enumerate(target.tolist(), start=1):
        value[value == cluster] = new
    renamed = of_cluster.copy()
    renamed[stuff] = np.where(value < none, value - 1 + things, VOID)
    return renamed
