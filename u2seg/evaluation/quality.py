"""Panoptic quality, pixel accuracy and mean IoU from overlaps.

Panoptic quality (Kirillov et al., CVPR 2019) is by the rules of panopticapi: a true and a predicted segment of one
class match at IoU over 0.5, where void of the ground truth does not count into the union; crowds match nothing; an
unmatched prediction is no error if more than half of it lies in void and the crowd of its class (the last of an image's
list, if it has several). Stuff segments of one class in one image are one segment, on both sides. The averages go over
classes that have a true or predicted segment.

Pixel accuracy and mean IoU: pixels that are void in the ground truth don't count; a pixel without a predicted class is
wrong. The mean goes over classes that the ground truth has (as in Detectron2's ``SemSegEvaluator``). Crowds count as
their class. A model's semantic head labels every pixel: stuff whole, neither covered by things nor left out when small,
and all things as one class. `u2seg_paper` votes and scores stuff on this map, as the released evaluation of U2Seg does;
there, a pixel of a cluster without a class counts neither as right nor as wrong.

Shapes: ``L`` clusters and ``C`` classes, things first in both; ``G`` true and ``P`` predicted segments of the set;
``n`` segments of either, ``m`` after merging; ``R`` regions (a photo's pixels of one stuff cluster in the head's map).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.evaluation.tables import SEGMENT, VOID, Table, count_grid, sum_pairs

MERGED = np.dtype([(name, SEGMENT[name]) for name in ("image", "category", "crowd", "area")])
"""What is kept of a `SEGMENT` when segments are merged, which each figure of a policy does anew."""


@dataclass(frozen=True)
class ClassCounts:
    """Matches of each class."""

    iou: np.ndarray  # float64 (C,), sum over matches
    tp: np.ndarray  # int64 (C,)
    fp: np.ndarray  # int64 (C,)
    fn: np.ndarray  # int64 (C,)

    @property
    def seen(self) -> np.ndarray:
        """bool (C,), classes with any segment."""
        return (self.tp + self.fp + self.fn) > 0

    def per_class(self) -> dict[str, np.ndarray]:
        """``PQ``, ``SQ``, ``RQ``, each float64 (C,) in percent; 0 for a class without segments."""
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        ratios = {"PQ": (self.iou, halves), "SQ": (self.iou, self.tp), "RQ": (self.tp, halves)}
        return {name: 100 * _ratio(above, below) for name, (above, below) in ratios.items()}

    def average(self, chosen: np.ndarray, suffix: str = "") -> dict[str, float]:
        """``PQ``, ``SQ``, ``RQ`` and ``suffix``: percent over the seen of ``chosen`` classes, bool (C,); else nan."""
        use = chosen & self.seen
        return {f"{name}{suffix}": _mean(values[use]) for name, values in self.per_class().items()}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)


def merge_segments(rows: np.ndarray, label: np.ndarray, mergeable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one segment of all ``mergeable`` ones, bool (n,), of one ``label`` int64 (n,) and image.

    Returns:
        Which merged segment each became, int64 (n,), `VOID` where it has no label; and the merged `MERGED` (m,),
        whose ``category`` is their label.
    """
    kept = np.flatnonzero(label != VOID)
    label, image, labels = label[kept], rows["image"][kept], int(label.max(initial=0)) + 1
    alone = (int(image.max(initial=0)) + 1) * labels + np.arange(len(kept))
    keys, merged_index = np.unique(np.where(mergeable[kept], image * labels + label, alone), return_inverse=True)
    merged_index = merged_index.reshape(-1)
    merged = np.zeros(len(keys), MERGED)
    for name, column in (("image", image), ("crowd", rows["crowd"][kept]), ("category", label)):
        merged[name][merged_index] = column
    merged["area"] = np.bincount(merged_index, weights=rows["area"][kept], minlength=len(keys))
    number = np.full(len(rows), VOID, np.int64)
    number[kept] = merged_index
    return number, merged


def count_matches(
    table: Table,
    gt_class: np.ndarray,
    pred_class: np.ndarray,
    class_isthing: np.ndarray,
    merge_crowds: bool = False,
    merge_stuff: bool = True,
) -> ClassCounts:
    """Match true and predicted segments class by class.

    Args:
        table: the set.
        gt_class: int64 (G,) in [0, C).
        pred_class: int64 (P,) in [0, C), -1 for void.
        class_isthing: bool (C,).
        merge_crowds: make the crowds of one class in one image one crowd. Right where a class holds several
            categories; panopticapi, which knows no such classes, would heed only the last crowd.
        merge_stuff: make the stuff segments of one class in one image one segment, on both sides.
    """
    crowd, stuff, num_classes = table.gt["crowd"], ~class_isthing & merge_stuff, len(class_isthing)
    # A crowd never merges with what is no crowd: crowds get labels of their own until all are merged.
    marked = np.where(crowd, gt_class + num_classes, gt_class)
    true_number, true = merge_segments(table.gt, marked, np.where(crowd, merge_crowds, stuff[gt_class]))
    guess_number, guess = merge_segments(table.pred, pred_class, stuff[pred_class])
    first, second, shared = _merge_pairs(table, true_number, guess_number)
    true_label = true["category"] % num_classes
    outside = first == VOID
    void = np.bincount(second[outside], weights=shared[outside], minlength=len(guess))
    first, second, shared = first[~outside], second[~outside], shared[~outside]
    same = true_label[first] == guess["category"][second]
    iou = shared / (true["area"][first] + guess["area"][second] - shared - void[second])
    match = same & ~true["crowd"][first] & (iou > 0.5)
    forgiven = same & _heeded_crowds(true)[first]
    void = void + np.bincount(second[forgiven], weights=shared[forgiven], minlength=len(guess))
    missed, wrong = ~true["crowd"], void / guess["area"] <= 0.5
    missed[first[match]] = False
    wrong[second[match]] = False
    labels = true_label[first[match]]
    return ClassCounts(
        iou=np.bincount(labels, weights=iou[match], minlength=num_classes),
        tp=np.bincount(labels, minlength=num_classes),
        fp=np.bincount(guess["category"][wrong], minlength=num_classes),
        fn=np.bincount(true_label[missed], minlength=num_classes),
    )


def _merge_pairs(
    table: Table, true_number: np.ndarray, guess_number: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merged segments that share pixels: true (`VOID` outside all), predicted, pixels; void predictions left out."""
    second = np.append(guess_number, VOID)[table.pair_pred]  # VOID is -1, the last entry
    keep = second != VOID
    first = np.append(true_number, VOID)[table.pair_gt[keep]]
    return sum_pairs(first, second[keep], table.pixels[keep])


def _heeded_crowds(true: np.ndarray) -> np.ndarray:
    """bool (m,), segments that are the last crowd of their class in their image."""
    crowds = np.flatnonzero(true["crowd"])[::-1]
    key = true["image"][crowds] * (int(true["category"].max(initial=0)) + 1) + true["category"][crowds]
    heeded = np.zeros(len(true), bool)
    heeded[crowds[np.unique(key, return_index=True)[1]]] = True
    return heeded


def confusion_matrix(
    table: Table, gt_class: np.ndarray, pred_class: np.ndarray, num_classes: int, outside: int = VOID
) -> np.ndarray:
    """Pixels int64 (C, C+1): true class by predicted class, the last column for none.

    Classes are ``gt_class`` int64 (G,) in [0, C) and ``pred_class`` int64 (P,), -1 for none; ``outside`` is that of
    pixels in no predicted segment, none by default.
    """
    keep = table.pair_gt != VOID
    row = gt_class[table.pair_gt[keep]]
    column = np.append(pred_class, outside)[table.pair_pred[keep]]  # VOID is -1, the last entry
    column[column == VOID] = num_classes
    return count_grid(row, column, table.pixels[keep], (num_classes, num_classes + 1))


def semantic_scores(confusion: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """``pixel_accuracy`` and ``miou`` in [0, 1] over the true pixels of ``chosen`` classes; nan if there are none.

    ``confusion`` is int64 (C, C+1), ``chosen`` bool (C,). Predictions of any class count on the pixels of those.
    """
    rows = confusion * chosen[:, None]
    total, right = int(rows.sum()), int(np.diagonal(rows).sum())
    return {"pixel_accuracy": right / total if total else np.nan, "miou": _mean(class_iou(rows)[rows.any(axis=1)])}


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU float64 (C,) of each class in [0, 1], 0 where a class has no pixel; ``confusion`` int64 (C, C+1)."""
    right = np.diagonal(confusion)
    return _ratio(right, confusion.sum(axis=1) + confusion.sum(axis=0)[:-1] - right)


def head_scores(
    regions: Table, gt_class: np.ndarray, region_class: np.ndarray, class_isthing: np.ndarray
) -> dict[str, float]:
    """`semantic_scores` of a semantic head's map, in which void is "a thing", over that and the stuff classes.

    Classes are ``gt_class`` int64 (G,) in [0, C) and ``region_class`` int64 (R,), -1 for none.
    """
    column = np.append(np.where(class_isthing, 0, np.cumsum(~class_isthing)), VOID)  # things 0, stuff 1.., none VOID
    count = int(column.max()) + 1
    confusion = confusion_matrix(regions, column[gt_class], column[region_class], count, outside=0)
    confusion[:, -1] = 0  # a cluster without a class counts neither as right nor as wrong
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
