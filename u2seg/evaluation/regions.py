"""What a model's semantic head says of every pixel: stuff whole, neither covered by things nor left out when small.

`u2seg_paper` votes and scores stuff on this map, as the released evaluation of U2Seg does; all other figures are of the
panoptic map. All things are one class here, as they are for the head. A pixel of a cluster without a class counts
neither as right nor as wrong (as in Detectron2's ``SemSegEvaluator``, and unlike `semantic`).

Shapes: ``R`` regions (a photo's pixels of one stuff cluster) of the set; ``P`` panoptic segments; ``G`` true segments;
``S`` stuff clusters; ``C`` classes, ``T`` of them stuff.
"""

from __future__ import annotations

import numpy as np

from u2seg.evaluation.joined import VOID, OverlapSet


def region_of_segments(regions: OverlapSet, overlaps: OverlapSet) -> np.ndarray:
    """Region int64 (P,) of the same photo and cluster, -1 for things and for stuff that the head does not have."""
    found = np.full(len(overlaps.pred), VOID, np.int64)
    wide = 1 + int(max(regions.pred.category.max(initial=0), overlaps.pred.category.max(initial=0)))
    key = regions.pred_image * wide + regions.pred.category
    stuff = np.flatnonzero(~overlaps.pred.isthing)
    if len(key) and len(stuff):
        order = np.argsort(key)
        wanted = overlaps.pred_image[stuff] * wide + overlaps.pred.category[stuff]
        place = order[np.searchsorted(key, wanted, sorter=order).clip(max=len(key) - 1)]
        found[stuff] = np.where(key[place] == wanted, place, VOID)
    return found


def head_scores(
    regions: OverlapSet, gt_class: np.ndarray, region_class: np.ndarray, class_isthing: np.ndarray
) -> dict[str, float]:
    """``pixel_accuracy`` and ``mIoU`` in [0, 1] over "a thing" and the stuff classes; nan where no pixel counts.

    Args:
        regions: the head's map beside the human labels; what is void there is "a thing".
        gt_class: int64 (G,) in [0, C).
        region_class: int64 (R,), class in [0, C), -1 for none.
        class_isthing: bool (C,).
    """
    column = np.where(class_isthing, 0, np.cumsum(~class_isthing))  # things 0, stuff 1..T
    count = int(column.max(initial=0)) + 1
    true_column = column[gt_class]
    own = np.append(np.where(region_class == VOID, VOID, column[region_class]), 0)  # the last for "a thing"
    keep = regions.pair_gt != VOID
    keep[keep] = own[regions.pair_pred[keep]] != VOID
    flat = true_column[regions.pair_gt[keep]] * count + own[regions.pair_pred[keep]]
    confusion = np.bincount(flat, weights=regions.pixels[keep], minlength=count * count).reshape(count, count)
    right, true, guessed = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    present = true > 0
    if not present.any():
        return {"pixel_accuracy": np.nan, "mIoU": np.nan}
    iou = right[present] / (true + guessed - right)[present]
    return {"pixel_accuracy": float(right.sum() / true.sum()), "mIoU": float(iou.sum() / present.sum())}


def renamed_in_place(of_cluster: np.ndarray, cluster_isthing: np.ndarray, class_isthing: np.ndarray) -> np.ndarray:
    """What becomes of each stuff cluster where a map is renamed cluster by cluster in the same array.

    The released evaluation does that: clusters are 1..S and classes 1..T in one array, T + 1 for none, so that a pixel
    renamed to class 5 is renamed again when the turn comes to cluster 5.

    Args:
        of_cluster: int64 (L,), class in [0, C) of each cluster, -1 for none; things first in clusters and classes.
        cluster_isthing: bool (L,).
        class_isthing: bool (C,).

    Returns:
        int64 (L,), the same for things.
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
