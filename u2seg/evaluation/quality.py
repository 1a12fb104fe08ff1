"""Panoptic quality from overlaps (Kirillov et al., CVPR 2019), by the rules of panopticapi.

The rules: a true and a predicted segment of one class match at IoU over 0.5, where void of the ground truth does not
count into the union; crowds match nothing; an unmatched prediction is no error if more than half of it lies in void and
the crowd of its class (the last of an image's list, if it has several). Stuff segments of one class in one image are
one segment, on both sides. The averages go over classes that have a true or predicted segment.

Shapes: ``G`` true and ``P`` predicted segments of the set; ``C`` classes; ``n`` segments of either; ``m`` of them after
merging; ``M`` pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.evaluation.tables import SEGMENT, VOID, SetTable, sum_pairs


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
        """``pq``, ``sq``, ``rq``, each float64 (C,) in [0, 1]; 0 for a class without segments."""
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        return {"pq": _ratio(self.iou, halves), "sq": _ratio(self.iou, self.tp), "rq": _ratio(self.tp, halves)}

    def average(self, chosen: np.ndarray) -> dict[str, float]:
        """``pq``, ``sq``, ``rq`` in [0, 1] over those of the ``chosen`` classes, bool (C,), that are seen; else nan."""
        use = chosen & self.seen
        count = int(use.sum())
        return {
            name: sum(values[use].tolist()) / count if count else np.nan for name, values in self.per_class().items()
        }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)


def merge_segments(rows: np.ndarray, label: np.ndarray, mergeable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one segment of all ``mergeable`` ones, bool (n,), of one ``label`` int64 (n,) and image.

    Returns:
        Which merged segment each became, int64 (n,), `VOID` where it has no label; and the merged `SEGMENT` (m,), whose
        ``category`` is their label.
    """
    kept = np.flatnonzero(label != VOID)
    label, image, labels = label[kept], rows["image"][kept], int(label.max(initial=0)) + 1
    alone = (int(image.max(initial=0)) + 1) * labels + np.arange(len(kept))
    keys, merged_index = np.unique(np.where(mergeable[kept], image * labels + label, alone), return_inverse=True)
    merged_index = merged_index.reshape(-1)
    merged = np.zeros(len(keys), SEGMENT)
    merged[merged_index] = rows[kept]
    merged["category"][merged_index] = label
    merged["area"] = np.bincount(merged_index, weights=rows["area"][kept], minlength=len(keys))
    number = np.full(len(rows), VOID, np.int64)
    number[kept] = merged_index
    return number, merged


def count_matches(
    table: SetTable,
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
        iou=np.bincount(labels, weights=iou[match], minlength=num_classes).astype(float),
        tp=np.bincount(labels, minlength=num_classes),
        fp=np.bincount(guess["category"][wrong], minlength=num_classes),
        fn=np.bincount(true_label[missed], minlength=num_classes),
    )


def _merge_pairs(
    table: SetTable, true_number: np.ndarray, guess_number: np.ndarray
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
