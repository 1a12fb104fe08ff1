"""Which human class a cluster stands for, decided by counts of what it overlaps.

Things are matched to thing classes and stuff to stuff classes, never across. What counts is shared pixels, as DESIGN.md
says, human crowds included; for `u2seg_paper`, detections that hit an object (see `votes`).

Shapes: ``K`` clusters of one kind; ``L`` clusters of both, things first; ``C`` classes; ``P`` predicted segments;
``E`` pieces of evidence (a predicted segment meets a true one).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.errors import lookup
from u2seg.evaluation.joined import VOID, OverlapSet

MANY_TO_ONE = "many_to_one"
ONE_TO_ONE = "one_to_one"
ONE_TO_ONE_THEN_MAJORITY = "one_to_one_then_majority"
U2SEG_PAPER = "u2seg_paper"

RULES = {
    MANY_TO_ONE: MANY_TO_ONE,
    ONE_TO_ONE: ONE_TO_ONE,
    ONE_TO_ONE_THEN_MAJORITY: ONE_TO_ONE_THEN_MAJORITY,
    U2SEG_PAPER: MANY_TO_ONE,
}
"""Policy to the rule that turns its counts into classes; `u2seg_paper` differs in what it counts."""

SEPARATE_STUFF = frozenset({U2SEG_PAPER})
"""Policies whose PQ takes each stuff segment for itself, also where several of a photo have one class."""

DEFAULT_POLICIES = (MANY_TO_ONE, ONE_TO_ONE, ONE_TO_ONE_THEN_MAJORITY)


def match_clusters(overlap: np.ndarray, policy: str) -> np.ndarray:
    """Class of each cluster from counts.

    ``many_to_one``: the class a cluster overlaps most; of equals, the first. ``one_to_one``: the assignment that
    overlaps most in sum, each class at most once (``scipy.optimize.linear_sum_assignment``; between assignments of
    equal sum its order decides, the same every time); clusters left over get none. ``one_to_one_then_majority``: those
    left over follow ``many_to_one``. A cluster is never given a class that it does not overlap at all.

    Args:
        overlap: int64 (K, C), how much cluster and class share, any unit.
        policy: one of those above.

    Returns:
        int64 (K,) class in [0, C), -1 for none.

    Raises:
        UsageError: there is no such policy.
    """
    rule = lookup("matching policy", policy, RULES)
    matched = np.full(len(overlap), VOID, np.int64)
    if not overlap.size:
        return matched
    if rule != MANY_TO_ONE:
        from scipy.optimize import linear_sum_assignment

        clusters, classes = linear_sum_assignment(overlap, maximize=True)
        matched[clusters] = np.where(overlap[clusters, classes] > 0, classes, VOID)
    if rule != ONE_TO_ONE:
        majority = np.where(overlap.max(axis=1) > 0, overlap.argmax(axis=1), VOID)
        matched = np.where(matched == VOID, majority, matched)
    return matched


@dataclass(frozen=True)
class Evidence:
    """What speaks for giving the cluster of a predicted segment some class."""

    pred: np.ndarray
    """int64 (E,), predicted segment, or P + n for detection n, or P + N + r for region r."""
    target: np.ndarray
    """int64 (E,), class of the true segment that it meets."""
    weight: np.ndarray
    """int64 (E,), shared pixels, or votes."""

    def table(self, cluster: np.ndarray, num_clusters: int, num_classes: int) -> np.ndarray:
        """Sum up: int64 (L, C), given the cluster of each predicted segment."""
        flat = cluster[self.pred] * num_classes + self.target
        counts = np.bincount(flat, weights=self.weight, minlength=num_clusters * num_classes)
        return counts.astype(np.int64).reshape(num_clusters, num_classes)

    def joined(self, other: Evidence) -> Evidence:
        """This evidence and ``other``."""
        columns = ("pred", "target", "weight")
        return Evidence(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns))

    def shifted(self, start: int) -> Evidence:
        """The same, of what is numbered from ``start``."""
        return Evidence(self.pred + start, self.target, self.weight)

    def heaviest(self, num_segments: int, num_classes: int) -> np.ndarray:
        """int64 (num_segments,), for each predicted segment the class with most weight, -1 for none."""
        keys, inverse = np.unique(self.pred * num_classes + self.target, return_inverse=True)
        weight = np.bincount(inverse.reshape(-1), weights=self.weight, minlength=len(keys))
        best = np.full(num_segments, VOID, np.int64)
        order = np.argsort(weight, kind="stable")
        best[keys[order] // num_classes] = keys[order] % num_classes  # the heaviest is written last
        return best

    def only(self, chosen: np.ndarray) -> Evidence:
        """The evidence of those predicted segments that are ``chosen``, bool."""
        keep = chosen[self.pred]
        return Evidence(self.pred[keep], self.target[keep], self.weight[keep])


def pixel_evidence(overlaps: OverlapSet, gt_class: np.ndarray) -> Evidence:
    """Pixels that thing shares with thing, or stuff with stuff; ``gt_class`` int64 (G,)."""
    inside = (overlaps.pair_gt != VOID) & (overlaps.pair_pred != VOID)
    gt, pred, pixels = overlaps.pair_gt[inside], overlaps.pair_pred[inside], overlaps.pixels[inside]
    keep = overlaps.gt.isthing[gt] == overlaps.pred.isthing[pred]
    return Evidence(pred[keep], gt_class[gt[keep]], pixels[keep])


def match_kinds(table: np.ndarray, cluster_isthing: np.ndarray, class_isthing: np.ndarray, policy: str) -> np.ndarray:
    """Match things and stuff, each for itself.

    Args:
        table: int64 (L, C) counts.
        cluster_isthing: bool (L,).
        class_isthing: bool (C,).
        policy: a key of `RULES`.

    Returns:
        int64 (L,) class in [0, C), -1 for none.
    """
    matched = np.full(len(table), VOID, np.int64)
    for kind in (True, False):
        clusters, classes = np.flatnonzero(cluster_isthing == kind), np.flatnonzero(class_isthing == kind)
        found = match_clusters(table[np.ix_(clusters, classes)], policy)
        hit = found != VOID
        matched[clusters[hit]] = classes[found[hit]]
    return matched
