"""A set labelled twice: all that matching and scoring need, and the figures of one way to name segments.

Shapes: ``L`` clusters and ``C`` classes, things first in both; ``G`` true and ``P`` predicted segments of the set;
``N`` detections and ``R`` regions of the semantic head (0 for pseudo labels); ``U`` = P + N + R *members* of clusters:
segments, then detections, then regions. All figures are percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from u2seg.evaluation.detection import DetectionSet, matched_scores
from u2seg.evaluation.matching import (
    U2SEG_PAPER,
    VoteThresholds,
    heaviest_classes,
    match_kinds,
    pixel_evidence,
    stuff_votes,
    thing_votes,
)
from u2seg.evaluation.quality import (
    ClassCounts,
    class_iou,
    confusion_matrix,
    count_matches,
    head_scores,
    renamed_in_place,
    semantic_scores,
)
from u2seg.evaluation.tables import VOID, SetTable, count_grid
from u2seg.evaluation.taxonomy import Taxonomy


@dataclass(frozen=True)
class Comparison:
    """A set labelled twice."""

    table: SetTable
    taxonomy: Taxonomy
    cluster_ids: np.ndarray  # int64 (L,), category_id of each cluster
    num_things: int  # of the clusters, the first ones
    thresholds: VoteThresholds
    detections: np.ndarray | None = None
    """`SEGMENT` (N,) of a model: they vote instead of thing segments in `u2seg_paper`, and AP is among the figures."""
    regions: SetTable | None = None
    """Of a model's semantic head; they vote instead of stuff segments in `u2seg_paper`."""
    backend: str | None = None  # COCO library for AP; the fastest installed if None

    @cached_property
    def cluster_isthing(self) -> np.ndarray:
        """bool (L,)"""
        return np.arange(len(self.cluster_ids)) < self.num_things

    @cached_property
    def gt_class(self) -> np.ndarray:
        """int64 (G,) class of each true segment."""
        return self.taxonomy.classes(self.table.gt["category"])

    @cached_property
    def members(self) -> np.ndarray:
        """`SEGMENT` (U,)"""
        more = (self.detections, None if self.regions is None else self.regions.pred)
        return np.concatenate([self.table.pred, *(rows for rows in more if rows is not None)])

    @cached_property
    def starts(self) -> tuple[int, int]:
        """Where among the members the detections and the regions start."""
        segments = len(self.table.pred)
        return segments, segments + (0 if self.detections is None else len(self.detections))

    @cached_property
    def cluster(self) -> np.ndarray:
        """int64 (U,) cluster in [0, L) of each member."""
        order = np.argsort(self.cluster_ids)
        return order[np.searchsorted(self.cluster_ids[order], self.members["category"])]

    @cached_property
    def _pixels(self) -> np.ndarray:
        return pixel_evidence(self.table, self.gt_class)

    @cached_property
    def _votes(self) -> np.ndarray:
        head, start = (self.table, 0) if self.regions is None else (self.regions, self.starts[1])
        stuff = stuff_votes(head, self.gt_class, self.thresholds.stuff_iou, start)
        voters = np.flatnonzero(self.table.pred["isthing"]) if self.detections is None else np.arange(*self.starts)
        things = thing_votes(self.table, self.gt_class, self.members[voters], voters, self.thresholds)
        return np.concatenate([things, stuff])

    def counts(self, policy: str, cluster: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """What ``policy`` counts, summed to int64 (L, C): votes for `u2seg_paper`, else pixels.

        ``cluster`` int64 (U,) is that of each member; only the ``chosen``, bool (U,), count.
        """
        evidence = self._votes if policy == U2SEG_PAPER else self._pixels
        if chosen is not None:
            evidence = evidence[chosen[evidence["member"]]]
        shape = len(self.cluster_ids), len(self.taxonomy)
        return count_grid(cluster[evidence["member"]], evidence["target"], evidence["weight"], shape)

    def matched(self, policy: str, cluster: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Class int64 (L,) of each cluster by ``policy``, -1 for none; arguments as of `counts`."""
        table = self.counts(policy, cluster, chosen)
        return match_kinds(table, self.cluster_isthing, self.taxonomy.isthing, policy)

    def shuffled(self, seed: int | None) -> np.ndarray:
        """`cluster` with the ids shuffled, things among things, stuff among stuff; as it is for None.

        Segments follow the detections and regions that they were made of.
        """
        if seed is None:
            return self.cluster
        rng = np.random.default_rng(seed)
        cluster, (first, second) = self.cluster.copy(), self.starts
        isthing, origin = self.table.pred["isthing"], self.table.pred["origin"]
        things, stuff = np.flatnonzero(isthing), np.flatnonzero(~isthing)
        cluster[stuff] = cluster[rng.permutation(stuff)]
        if self.detections is None:
            cluster[things] = cluster[rng.permutation(things)]
        else:
            cluster[first:second] = rng.permutation(cluster[first:second])
            cluster[things] = cluster[first + origin[things]]
        if self.regions is not None:
            cluster[second:] = rng.permutation(cluster[second:])
            made = stuff[origin[stuff] != VOID]
            cluster[made] = cluster[second + origin[made]]
        return cluster

    def best_classes(self) -> np.ndarray:
        """int64 (P,), for each predicted segment the class that it shares most pixels with, -1 for none.

        What perfect classes would make of these segments.
        """
        return heaviest_classes(self._pixels, len(self.table.pred))

    def figures(self, classes: np.ndarray, policy: str = "", of_cluster: np.ndarray | None = None) -> dict[str, float]:
        """PQ, pixel accuracy, mIoU and the semantic head's own, in percent, nan where nothing is there to score.

        Args:
            classes: int64 (U,), or (P,) where there is no policy; -1 for void.
            policy: the one that gave the classes; `u2seg_paper` also scores the semantic head's own map.
            of_cluster: int64 (L,), class of each cluster, for the figures that the released code's renaming gives.
        """
        pred_class, _, region_class = np.split(classes, self.starts)
        counts, confusion = self.class_counts(pred_class, policy), self.confusion(pred_class)
        isthing = self.taxonomy.isthing
        every = np.ones_like(isthing)
        figures: dict[str, float] = {}
        for suffix, chosen in (("", every), ("_th", isthing), ("_st", ~isthing)):
            figures |= {f"{name.upper()}{suffix}": 100 * value for name, value in counts.average(chosen).items()}
        for suffix, chosen in (("", every), ("_stuff", ~isthing)):
            figures |= _percent(semantic_scores(confusion, chosen), suffix)
        if policy == U2SEG_PAPER and self.regions is not None:
            class_of_region = {"_sem_seg": region_class}
            if of_cluster is not None:
                renamed = renamed_in_place(of_cluster, self.cluster_isthing, isthing)
                class_of_region["_released"] = renamed[self.cluster[self.starts[1] :]]
            for suffix, labels in class_of_region.items():
                figures |= _percent(head_scores(self.regions, self.gt_class, labels, isthing), suffix)
        return figures

    def detection_figures(self, classes: np.ndarray) -> dict[str, float]:
        """AP of the detections in percent, given classes int64 (U,); empty without detections."""
        if self.detections is None:
            return {}
        labels = classes[slice(*self.starts)]
        return matched_scores(DetectionSet.of(self.table, self.gt_class, self.detections, labels), self.backend)

    def class_counts(self, pred_class: np.ndarray, policy: str = "") -> ClassCounts:
        """Matches of each class, given classes int64 (P,) and the policy that gave them.

        `u2seg_paper` takes each stuff segment for itself, also where several of a photo have one class.
        """
        coarse_things = self.taxonomy.things != "category"  # one class may hold several categories
        flags = (self.taxonomy.isthing, coarse_things, policy != U2SEG_PAPER)
        return count_matches(self.table, self.gt_class, pred_class, *flags)

    def confusion(self, pred_class: np.ndarray) -> np.ndarray:
        """Pixels int64 (C, C+1), given classes int64 (P,)."""
        return confusion_matrix(self.table, self.gt_class, pred_class, len(self.taxonomy))

    def per_class(self, pred_class: np.ndarray, policy: str = "") -> list[dict[str, float | int | str | bool]]:
        """Name, kind, PQ, SQ, RQ, IoU (percent) and counts of each class that either side has; classes int64 (P,)."""
        counts, iou = self.class_counts(pred_class, policy), class_iou(self.confusion(pred_class))
        values = counts.per_class()
        return [
            {
                "name": self.taxonomy.names[index],
                "isthing": bool(self.taxonomy.isthing[index]),
                **{name.upper(): 100 * float(values[name][index]) for name in values},
                "IoU": 100 * float(iou[index]),
                **{name: int(getattr(counts, name)[index]) for name in ("tp", "fp", "fn")},
            }
            for index in np.flatnonzero(counts.seen).tolist()
        ]

    def one_class_things(self) -> dict[str, float]:
        """``PQ_th``, ``SQ_th``, ``RQ_th`` in percent with all things as one class: masks alone, no matching."""
        gt_class = np.where(self.table.gt["isthing"], 0, 1)
        pred_class = np.where(self.table.pred["isthing"], 0, VOID)
        things = np.array([True, False])
        average = count_matches(self.table, gt_class, pred_class, things, merge_crowds=True).average(things)
        return {f"{name.upper()}_th": 100 * value for name, value in average.items()}


def _percent(scores: dict[str, float], suffix: str) -> dict[str, float]:
    return {f"pixel_accuracy{suffix}": 100 * scores["pixel_accuracy"], f"mIoU{suffix}": 100 * scores["miou"]}
