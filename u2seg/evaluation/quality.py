"""Panoptic quality from overlaps (Kirillov et al., CVPR 2019), by the rules of panopticapi.

The rules: a true and a predicted segment of one class match at IoU over 0.5, where void of the ground truth does not
count into the union; crowds match nothing; an unmatched prediction is no error if more than half of it lies in void and
the crowd of its class (the last of an image's list, if it has several). Stuff segments of one class in one image are
one segment, on both sides. The averages go over classes that have a true or predicted segment.

Shapes: ``G`` true and ``P`` predicted segments of the set; ``C`` classes; ``n`` segments of either; ``M`` pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.evaluation.joined import VOID, OverlapSet


@dataclass(frozen=True)
class ClassCounts:
    """Matches of each class."""

    iou: np.ndarray
    """float64 (C,), sum over matches."""
    tp: np.ndarray
    """int64 (C,)"""
    fp: np.ndarray
    """int64 (C,)"""
    fn: np.ndarray
    """int64 (C,)"""

    @property
    def seen(self) -> np.ndarray:
        """bool (C,), classes with any segment."""
        return (self.tp + self.fp + self.fn) > 0

    def per_class(self) -> dict[str, np.ndarray]:
        """``pq``, ``sq``, ``rq``, each float64 (C,) in [0, 1]; 0 for a class without segments."""
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        return {
            "pq": _ratio(self.iou, halves),
            "sq": _ratio(self.iou, self.tp),
            "rq": _ratio(self.tp, halves),
        }

    def average(self, chosen: np.ndarray) -> dict[str, float]:
        """``pq``, ``sq``, ``rq`` in [0, 1] and ``n``, the number of classes seen; nan if none is.

        Args:
            chosen: bool (C,), classes to average.
        """
        use = chosen & self.seen
        count = int(use.sum())
        found = {
            name: sum(values[use].tolist()) / count if count else np.nan for name, values in self.per_class().items()
        }
        return {**found, "n": count}


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)


def merge_segments(image: np.ndarray, label: np.ndarray, mergeable: np.ndarray) -> tuple[np.ndarray, int]:
    """Number segments so that ``mergeable`` ones, bool (n,), of one label and image share a number.

    Args:
        image: int64 (n,).
        label: int64 (n,), not negative.
        mergeable: bool (n,).

    Returns:
        Numbers int64 (n,) from 0, where those not merged keep their order, and how many numbers there are.
    """
    if not len(image):
        return np.zeros(0, np.int64), 0
    labels = int(label.max()) + 1
    alone = (int(image.max()) + 1) * labels + np.arange(len(image))
    keys, number = np.unique(np.where(mergeable, image * labels + label, alone), return_inverse=True)
    return number.reshape(-1), len(keys)


@dataclass(frozen=True)
class _Groups:
    """Segments after merging: which one each became, and what those are."""

    number: np.ndarray
    """int64 (n,), `VOID` for a segment that became void."""
    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(
        cls, image: np.ndarray, label: np.ndarray, area: np.ndarray, crowd: np.ndarray, mergeable: np.ndarray
    ) -> _Groups:
        kept = np.flatnonzero(label != VOID)
        own, count = merge_segments(image[kept], label[kept], mergeable[kept])
        number = np.full(len(label), VOID, np.int64)
        number[kept] = own
        columns = [np.zeros(count, column.dtype) for column in (image, label, crowd)]
        for column, values in zip(columns, (image, label, crowd), strict=True):
            column[own] = values[kept]
        total = np.bincount(own, weights=area[kept], minlength=count).astype(np.int64)
        return cls(number, columns[0], columns[1], total, columns[2])


def count_matches(
    overlaps: OverlapSet,
    gt_class: np.ndarray,
    pred_class: np.ndarray,
    class_isthing: np.ndarray,
    merge_crowds: bool = False,
    merge_stuff: bool = True,
) -> ClassCounts:
    """Match true and predicted segments class by class.

    Args:
        overlaps: the set.
        gt_class: int64 (G,) in [0, C).
        pred_class: int64 (P,) in [0, C), -1 for segments that shall be void.
        class_isthing: bool (C,).
        merge_crowds: make the crowds of one class in one image one crowd. Wanted where a class holds several
            categories; panopticapi, which knows no such classes, would heed only the last crowd.
        merge_stuff: make the stuff segments of one class in one image one segment, on both sides.
    """
    gt, pred = overlaps.gt, overlaps.pred
    stuff = ~class_isthing & merge_stuff
    gt_merge = np.where(gt.crowd, merge_crowds, stuff[gt_class])
    # A crowd never merges with what is no crowd: crowds get labels of their own while numbers are given.
    num_classes = len(class_isthing)
    marked = np.where(gt.crowd, gt_class + num_classes, gt_class)
    true = _Groups.of(overlaps.gt_image, marked, gt.area, gt.crowd, gt_merge)
    guess = _Groups.of(overlaps.pred_image, pred_class, pred.area, pred.crowd, stuff[pred_class])
    first, second, shared = _merge_pairs(overlaps, true, guess)
    true_label = true.label % num_classes
    outside = first == VOID
    void = np.bincount(second[outside], weights=shared[outside], minlength=len(guess.label))
    first, second, shared = first[~outside], second[~outside], shared[~outside]
    same = true_label[first] == guess.label[second]
    iou = shared / (true.area[first] + guess.area[second] - shared - void[second])
    match = same & ~true.crowd[first] & (iou > 0.5)
    forgiven = same & _heeded_crowds(true)[first]
    void = void + np.bincount(second[forgiven], weights=shared[forgiven], minlength=len(guess.label))
    missed, wrong = ~true.crowd, void / guess.area <= 0.5
    missed[first[match]] = False
    wrong[second[match]] = False
    labels = true_label[first[match]]
    return ClassCounts(
        iou=np.bincount(labels, weights=iou[match], minlength=num_classes).astype(float),
        tp=np.bincount(labels, minlength=num_classes),
        fp=np.bincount(guess.label[wrong], minlength=num_classes),
        fn=np.bincount(true_label[missed], minlength=num_classes),
    )


def _merge_pairs(overlaps: OverlapSet, true: _Groups, guess: _Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of groups that share pixels: true (`VOID` outside all), predicted, pixels; void predictions left out."""
    keep = overlaps.pair_pred != VOID
    keep[keep] = guess.number[overlaps.pair_pred[keep]] != VOID
    second = guess.number[overlaps.pair_pred[keep]]
    gt = overlaps.pair_gt[keep]
    first = np.full(len(gt), VOID, np.int64)
    first[gt != VOID] = true.number[gt[gt != VOID]]
    width = len(guess.label) + 1
    keys, inverse = np.unique((first + 1) * width + second, return_inverse=True)
    shared = np.bincount(inverse.reshape(-1), weights=overlaps.pixels[keep], minlength=len(keys)).astype(np.int64)
    return keys // width - 1, keys % width, shared


def _heeded_crowds(true: _Groups) -> np.ndarray:
    """bool, groups that are the last crowd of their class in their image."""
    crowds = np.flatnonzero(true.crowd)[::-1]
    key = true.image[crowds] * (int(true.label.max(initial=0)) + 1) + true.label[crowds]
    heeded = np.zeros(len(true.label), bool)
    heeded[crowds[np.unique(key, return_index=True)[1]]] = True
    return heeded
