"""Pseudo labels beside human labels: all that matching and scoring need, and the figures of one way to name segments.

Shapes: ``L`` clusters, things first; ``C`` classes, things first; ``G`` true and ``P`` predicted segments of the set;
``N`` detections and ``R`` regions of the semantic head (0 for pseudo labels); ``U`` = P + N + R, everything that has a
cluster: segments, then detections, then regions.
All figures are percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from u2seg.evaluation.dataset import PanopticSet
from u2seg.evaluation.detections import Detections, labelled_objects, matched_scores
from u2seg.evaluation.joined import VOID, OverlapSet
from u2seg.evaluation.matching import SEPARATE_STUFF, U2SEG_PAPER, Evidence, pixel_evidence
from u2seg.evaluation.overlap import ImageOverlap
from u2seg.evaluation.quality import ClassCounts, count_matches
from u2seg.evaluation.regions import head_scores, region_of_segments, renamed_in_place
from u2seg.evaluation.semantic import class_iou, confusion_matrix, semantic_scores
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.evaluation.votes import BOX_IOU, SCORE, STUFF_IOU, Voters, stuff_votes, thing_votes
from u2seg.structures import LabelSpace


@dataclass(frozen=True)
class VoteThresholds:
    """When a segment votes, in the policy ``u2seg_paper``; see `u2seg.evaluation.votes`."""

    box_iou: float = BOX_IOU
    score: float = SCORE
    stuff_iou: float = STUFF_IOU


@dataclass(frozen=True)
class Comparison:
    """A set labelled twice."""

    overlaps: OverlapSet
    taxonomy: Taxonomy
    cluster_ids: np.ndarray
    """int64 (L,), ``category_id`` of each cluster."""
    cluster_isthing: np.ndarray
    """bool (L,)"""
    votes: VoteThresholds = field(default_factory=VoteThresholds)
    detections: Detections | None = None
    """Of a model; they then vote instead of thing segments in ``u2seg_paper``, and AP is among the figures."""
    regions: OverlapSet | None = None
    """Of a model's semantic head; they then vote instead of stuff segments in ``u2seg_paper``, see `regions`."""
    backend: str | None = None
    """COCO library for AP; the fastest installed if None."""

    @classmethod
    def of(
        cls, images: Sequence[ImageOverlap], pseudo: PanopticSet, taxonomy: Taxonomy, votes: VoteThresholds
    ) -> Comparison:
        """Join the images' overlaps; ``pseudo`` gives the clusters."""
        things, stuff = pseudo.clusters(True), pseudo.clusters(False)
        return cls(
            overlaps=OverlapSet.join(images),
            taxonomy=taxonomy,
            cluster_ids=np.array(things + stuff, np.int64),
            cluster_isthing=np.arange(len(things) + len(stuff)) < len(things),
            votes=votes,
        )

    @classmethod
    def of_space(
        cls,
        images: Sequence[ImageOverlap],
        space: LabelSpace,
        taxonomy: Taxonomy,
        votes: VoteThresholds,
        detections: Detections | None,
        regions: Sequence[ImageOverlap] | None = None,
    ) -> Comparison:
        """Join the images' overlaps with a model whose clusters are those of ``space``."""
        count = space.num_things + space.num_stuff
        ids = np.arange(1, count + 1)
        overlaps, head = OverlapSet.join(images), OverlapSet.join(regions) if regions else None
        return cls(overlaps, taxonomy, ids, ids <= space.num_things, votes, detections, head)

    @cached_property
    def gt_class(self) -> np.ndarray:
        """int64 (G,) class of each true segment."""
        return self.taxonomy.classes(self.overlaps.gt.category)

    @cached_property
    def cluster(self) -> np.ndarray:
        """int64 (U,) cluster in [0, L) of each predicted segment, detection and region."""
        order = np.argsort(self.cluster_ids)
        parts = [self.overlaps.pred.category]
        parts += [] if self.detections is None else [self.detections.category]
        parts += [] if self.regions is None else [self.regions.pred.category]
        return order[np.searchsorted(self.cluster_ids[order], np.concatenate(parts))]

    @cached_property
    def image(self) -> np.ndarray:
        """int64 (U,) image of each predicted segment, detection and region."""
        parts = [self.overlaps.pred_image]
        parts += [] if self.detections is None else [self.detections.image]
        parts += [] if self.regions is None else [self.regions.pred_image]
        return np.concatenate(parts)

    @cached_property
    def _starts(self) -> tuple[int, int]:
        """Where among U the detections and the regions start."""
        segments = len(self.overlaps.pred)
        return segments, segments + (0 if self.detections is None else len(self.detections))

    @cached_property
    def _pixels(self) -> Evidence:
        return pixel_evidence(self.overlaps, self.gt_class)

    @cached_property
    def _votes(self) -> Evidence:
        votes, found = self.votes, self.detections
        if self.regions is None:
            stuff = stuff_votes(self.overlaps, self.gt_class, votes.stuff_iou)
        else:
            stuff = stuff_votes(self.regions, self.gt_class, votes.stuff_iou).shifted(self._starts[1])
        if found is None:
            pred, voters = self.overlaps.pred, np.flatnonzero(self.overlaps.pred.isthing)
            columns = (voters, self.overlaps.pred_image[voters], pred.box[voters], pred.score[voters])
        else:
            columns = (self._starts[0] + np.arange(len(found)), found.image, found.box, found.score)
        things = thing_votes(self.overlaps, self.gt_class, Voters(*columns), votes.box_iou, votes.score)
        return things.joined(stuff)

    def evidence(self, policy: str) -> Evidence:
        """What ``policy`` counts."""
        return self._votes if policy == U2SEG_PAPER else self._pixels

    def counts(self, policy: str, cluster: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Evidence summed to int64 (L, C).

        Args:
            policy: it decides what counts.
            cluster: int64 (U,), cluster of each predicted segment, detection and region.
            chosen: bool (U,), those that count; all if None.
        """
        evidence = self.evidence(policy)
        if chosen is not None:
            evidence = evidence.only(chosen)
        return evidence.table(cluster, len(self.cluster_ids), len(self.taxonomy))

    def shuffled(self, seed: int) -> np.ndarray:
        """`cluster` with the ids dealt anew, things among things, stuff among stuff.

        Segments follow the detections and regions that they were made of.
        """
        rng = np.random.default_rng(seed)
        dealt = self.cluster.copy()
        first, second = self._starts
        things, stuff = (np.flatnonzero(self.overlaps.pred.isthing == kind) for kind in (True, False))
        dealt[stuff] = dealt[rng.permutation(stuff)]
        if self.detections is None:
            dealt[things] = dealt[rng.permutation(things)]
        else:
            dealt[first:second] = rng.permutation(dealt[first:second])
            dealt[things] = dealt[first + self.detections.segment[things]]
        if self.regions is not None:
            dealt[second:] = rng.permutation(dealt[second:])
            origin = region_of_segments(self.regions, self.overlaps)
            made = np.flatnonzero(origin != VOID)
            dealt[made] = dealt[second + origin[made]]
        return dealt

    def best_classes(self) -> np.ndarray:
        """int64 (P,), for each predicted segment the class that it shares most pixels with, -1 for none.

        What perfect classes would make of these segments.
        """
        return self._pixels.heaviest(len(self.overlaps.pred), len(self.taxonomy))

    def figures(self, classes: np.ndarray, policy: str = "", of_cluster: np.ndarray | None = None) -> dict[str, float]:
        """PQ, pixel accuracy, mIoU and (with detections) AP in percent, nan where nothing is there to score.

        Args:
            classes: int64 (U,), -1 for void; (P,) will do for all but AP.
            policy: the one that gave the classes; `u2seg_paper` also scores the semantic head's own map.
            of_cluster: int64 (L,), class of each cluster, for the figures that the released code's renaming gives.
        """
        pred_class, of_detections, of_regions = np.split(classes, self._starts)
        counts, confusion = self.class_counts(pred_class, policy), self.confusion(pred_class)
        isthing = self.taxonomy.isthing
        found: dict[str, float] = {}
        for suffix, chosen in (("", np.ones_like(isthing)), ("_th", isthing), ("_st", ~isthing)):
            average = counts.average(chosen)
            found.update({f"{name.upper()}{suffix}": 100 * average[name] for name in ("pq", "sq", "rq")})
        for suffix, chosen in (("", np.ones_like(isthing)), ("_stuff", ~isthing)):
            scores = semantic_scores(confusion, chosen)
            found[f"pixel_accuracy{suffix}"] = 100 * scores["pixel_accuracy"]
            found[f"mIoU{suffix}"] = 100 * scores["miou"]
        if self.detections is not None and len(classes) == len(self.cluster):
            objects = labelled_objects(self.overlaps, self.detections, self.gt_class, of_detections)
            found |= matched_scores(objects, self.backend)
        if policy == U2SEG_PAPER and self.regions is not None:
            named = {"sem_seg": of_regions}
            if of_cluster is not None:
                renamed = renamed_in_place(of_cluster, self.cluster_isthing, isthing)
                named["released"] = renamed[self.cluster[self._starts[1] :]]
            for suffix, region_class in named.items():
                scores = head_scores(self.regions, self.gt_class, region_class, isthing)
                found |= {f"{name}_{suffix}": 100 * value for name, value in scores.items()}
        return found

    def class_counts(self, pred_class: np.ndarray, policy: str = "") -> ClassCounts:
        """Matches of each class, given classes int64 (P,) and the policy that gave them."""
        taxonomy, merge = self.taxonomy, policy not in SEPARATE_STUFF
        flags = (taxonomy.isthing, taxonomy.coarse_things, merge)
        return count_matches(self.overlaps, self.gt_class, pred_class, *flags)

    def confusion(self, pred_class: np.ndarray) -> np.ndarray:
        """Pixels int64 (C, C+1), given classes int64 (P,)."""
        return confusion_matrix(self.overlaps, self.gt_class, pred_class, len(self.taxonomy))

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
        gt_class = np.where(self.overlaps.gt.isthing, 0, 1)
        pred_class = np.where(self.overlaps.pred.isthing, 0, VOID)
        things = np.array([True, False])
        average = count_matches(self.overlaps, gt_class, pred_class, things, merge_crowds=True).average(things)
        return {f"{name.upper()}_th": 100 * average[name] for name in ("pq", "sq", "rq")}
