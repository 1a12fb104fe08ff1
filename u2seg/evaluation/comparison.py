"""A set labelled twice: all that matching and scoring need, and the figures of one way to name segments.

Shapes: ``L`` clusters and ``C`` classes, things first in both; ``G`` true and ``P`` predicted segments of the set;
``N`` detections and ``R`` regions of the semantic head (0 for pseudo labels); ``U`` = P + N + R *members* of clusters:
segments, then detections, then regions. All figures are percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from u2seg.evaluation import matching, quality
from u2seg.evaluation.detection import scores_by_kind
from u2seg.evaluation.matching import U2SEG_PAPER, Scoring, Taxonomy
from u2seg.evaluation.tables import VOID, Table, count_grid
from u2seg.panoptic.run_lengths import positions


@dataclass(frozen=True)
class Comparison:
    """A set labelled twice."""

    table: Table
    taxonomy: Taxonomy
    cluster_ids: np.ndarray  # int64 (L,), category_id of each cluster
    num_things: int  # of the clusters, the first ones
    scoring: Scoring
    detections: np.ndarray | None = None
    """`SEGMENT` (N,) of a model: they vote instead of thing segments in `u2seg_paper`, and AP is among the figures."""
    regions: Table | None = None
    """Of a model's semantic head; they vote instead of stuff segments in `u2seg_paper`."""

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
        more = [rows for rows in (self.detections, self.regions and self.regions.pred) if rows is not None]
        return np.concatenate([self.table.pred, *more]) if more else self.table.pred

    @cached_property
    def starts(self) -> tuple[int, int]:
        """Where among the members the detections and the regions start."""
        segments = len(self.table.pred)
        return segments, segments + (0 if self.detections is None else len(self.detections))

    @cached_property
    def cluster(self) -> np.ndarray:
        """int64 (U,) cluster in [0, L) of each member."""
        return positions(self.members["category"], self.cluster_ids)

    @cached_property
    def _pixels(self) -> coo_array:
        return matching.pixel_evidence(self.table, self.gt_class, (len(self.members), len(self.taxonomy)))

    @cached_property
    def _votes(self) -> coo_array:
        voters = np.flatnonzero(self.table.pred["isthing"]) if self.detections is None else np.arange(*self.starts)
        voter, of_thing = matching.thing_votes(
            self.table, self.gt_class, self.members[voters], self.scoring.box_iou, self.scoring.score
        )
        head, start = (self.table, 0) if self.regions is None else (self.regions, self.starts[1])
        region, of_stuff = matching.stuff_votes(head, self.gt_class, self.scoring.stuff_iou)
        votes = np.append(voters[voter], start + region), np.append(of_thing, of_stuff)
        return coo_array((np.ones(len(votes[0]), np.int64), votes), (len(self.members), len(self.taxonomy)))

    def counts(self, policy: str, cluster: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """What ``policy`` counts, summed to int64 (L, C): votes for `u2seg_paper`, else pixels.

        ``cluster`` int64 (U,) is that of each member; only the ``chosen``, bool (U,), count.
        """
        evidence = self._votes if policy == U2SEG_PAPER else self._pixels
        weight = evidence.data if chosen is None else evidence.data * chosen[evidence.row]
        return count_grid(cluster[evidence.row], evidence.col, weight, (len(self.cluster_ids), len(self.taxonomy)))

    def matched(self, policy: str, cluster: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Class int64 (L,) of each cluster by ``policy``, -1 for none; arguments as of `counts`."""
        table = self.counts(policy, cluster, chosen)
        return matching.match_kinds(table, self.cluster_isthing, self.taxonomy.isthing, policy)

    def shuffled(self, seed: int | None) -> np.ndarray:
        """`cluster` with the ids shuffled, things among things, stuff among stuff; as it is for None.

        Segments follow the detections and regions that they were made of.
        """
        if seed is None:
            return self.cluster
        rng, cluster = np.random.default_rng(seed), self.cluster.copy()
        stuff, things = (np.flatnonzero(self.table.pred["isthing"] == kind) for kind in (False, True))
        detections, regions = np.split(np.arange(len(cluster)), self.starts)[1:]
        for group in (stuff, things if self.detections is None else detections, regions):
            cluster[group] = cluster[rng.permutation(group)]
        made = np.flatnonzero(self.table.pred["origin"] != VOID)
        cluster[made] = cluster[self.table.pred["origin"][made]]
        return cluster

    def best_classes(self) -> np.ndarray:
        """int64 (P,), for each predicted segment the class that it shares most pixels with, -1 for none.

        What perfect classes would make of these segments.
        """
        shared = self._pixels.tocsr().tocoo()  # one entry for each segment and class
        order = np.argsort(shared.data, kind="stable")
        best = np.full(len(self.table.pred), VOID, np.int64)
        best[shared.row[order]] = shared.col[order]  # the largest is written last
        return best

    def figures(self, classes: np.ndarray, policy: str = "", of_cluster: np.ndarray | None = None) -> dict[str, float]:
        """PQ, pixel accuracy, mIoU and the semantic head's own, in percent, nan where nothing is there to score.

        Args:
            classes: int64 (U,), or (P,) where there is no policy; -1 for void.
            policy: the one that gave the classes; `u2seg_paper` also scores the semantic head's own map.
            of_cluster: int64 (L,), class of each cluster, for the figures that the released code's renaming gives.
        """
        pred_class, _, region_class = np.split(classes, self.starts)
        counts, confusion = self.class_counts(pred_class, policy), self._confusion(pred_class)
        isthing = self.taxonomy.isthing
        every = np.ones_like(isthing)
        figures: dict[str, float] = {}
        for suffix, chosen in (("", every), ("_th", isthing), ("_st", ~isthing)):
            figures |= counts.average(chosen, suffix)
        for suffix, chosen in (("", every), ("_stuff", ~isthing)):
            figures |= _percent(quality.semantic_scores(confusion, chosen), suffix)
        if policy == U2SEG_PAPER and self.regions is not None:
            figures |= _percent(quality.head_scores(self.regions, self.gt_class, region_class, isthing), "_sem_seg")
            if of_cluster is not None:
                renamed = quality.renamed_in_place(of_cluster, self.cluster_isthing, isthing)[
                    self.cluster[self.starts[1] :]
                ]
                figures |= _percent(quality.head_scores(self.regions, self.gt_class, renamed, isthing), "_released")
        return figures

    def detection_figures(self, classes: np.ndarray) -> dict[str, float]:
        """AP of the detections in percent, given classes int64 (U,); empty without detections."""
        if self.detections is None:
            return {}
        labels = classes[slice(*self.starts)]
        scores = scores_by_kind(self.table, self.gt_class, self.detections, labels, self.scoring.backend, brief=True)
        return {f"{name}_{kind}": value for kind, figures in scores.items() for name, value in figures.items()}

    def class_counts(self, pred_class: np.ndarray, policy: str = "") -> quality.ClassCounts:
        """Matches of each class, given classes int64 (P,) and the policy that gave them.

        `u2seg_paper` takes each stuff segment for itself, also where several of a photo have one class.
        """
        coarse_things = self.taxonomy.things != "category"  # one class may hold several categories
        flags = (self.taxonomy.isthing, coarse_things, policy != U2SEG_PAPER)
        return quality.count_matches(self.table, self.gt_class, pred_class, *flags)

    def _confusion(self, pred_class: np.ndarray) -> np.ndarray:
        return quality.confusion_matrix(self.table, self.gt_class, pred_class, len(self.taxonomy))

    def per_class(self, pred_class: np.ndarray, policy: str = "") -> list[dict[str, Any]]:
        """Name, kind, PQ, SQ, RQ, IoU (percent) and counts of each class that either side has; classes int64 (P,)."""
        counts = self.class_counts(pred_class, policy)
        columns = counts.per_class() | {"IoU": 100 * quality.class_iou(self._confusion(pred_class))}
        columns |= {name: getattr(counts, name) for name in ("tp", "fp", "fn")}
        return [
            {"name": name, "isthing": isthing} | {key: column[index].item() for key, column in columns.items()}
            for index, (name, isthing) in enumerate(self.taxonomy.keys)
            if counts.seen[index]
        ]

    def one_class_things(self) -> dict[str, float]:
        """``PQ_th``, ``SQ_th``, ``RQ_th`` in percent with all things as one class: masks alone, no matching."""
        gt_class = np.where(self.table.gt["isthing"], 0, 1)
        pred_class = np.where(self.table.pred["isthing"], 0, VOID)
        things = np.array([True, False])
        return quality.count_matches(self.table, gt_class, pred_class, things, merge_crowds=True).average(things, "_th")


def _percent(scores: dict[str, float], suffix: str) -> dict[str, float]:
    return {f"pixel_accuracy{suffix}": 100 * scores["pixel_accuracy"], f"mIoU{suffix}": 100 * scores["miou"]}
