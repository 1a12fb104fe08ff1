"""Which human class a cluster stands for, decided by counts of what it overlaps.

Human classes (`Taxonomy`) are categories as they are, or their supercategories.

Things are matched to thing classes and stuff to stuff classes, never across. What counts is shared pixels, human crowds
included; for `u2seg_paper`, votes, as the U2Seg paper counts them (arXiv 2312.17243, section 4, and its released code):
a thing votes for the class of a human object that its box hits if its score is high enough; a stuff region votes for
the human stuff class that it overlaps enough in that photo; the majority wins, of equals the first class.

Shapes: ``K`` clusters of one kind; ``L`` clusters of both, things first; ``C`` classes; ``G`` true and ``P`` predicted
segments of the set; ``U`` members of clusters (see `comparison`); ``V`` voters; ``n`` segments.

*Evidence* is a sparse matrix, int64 (U, C): what speaks for giving the cluster of a member a class, shared pixels or
votes. It may hold several entries for one pair, which add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.quality import merge_segments
from u2seg.evaluation.tables import VOID, Table, sum_pairs
from u2seg.panoptic import PanopticDataset

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

LEVELS = ("category", "supercategory")
DEFAULT_POLICIES = (MANY_TO_ONE, ONE_TO_ONE, ONE_TO_ONE_THEN_MAJORITY)


@dataclass(frozen=True)
class Taxonomy:
    """C classes and the class of each category id of the ground truth."""

    keys: tuple[
        tuple[str, bool], ...
    ]  # (C,) name, and whether it is a thing: by these, classes of two sets are compared
    class_of: Mapping[int, int]
    things: str  # Level of the thing classes, one of `LEVELS`
    stuff: str  # Level of the stuff classes, one of `LEVELS`

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """(C,)"""
        return [name for name, _ in self.keys]

    @property
    def isthing(self) -> np.ndarray:
        """bool (C,)"""
        return np.array([isthing for _, isthing in self.keys], bool)

    def classes(self, category: np.ndarray) -> np.ndarray:
        """Class int64 (n,) in [0, C) of category ids int64 (n,)."""
        ids, inverse = np.unique(category, return_inverse=True)
        return np.array([self.class_of[index] for index in ids.tolist()], np.int64)[inverse.reshape(-1)]

    @classmethod
    def of(
        cls, gt: PanopticDataset, things: str = "category", stuff: str = "supercategory", like: Taxonomy | None = None
    ) -> Taxonomy:
        """The classes of ``gt``, each kind at its level; numbered as those of ``like``, if given.

        COCO has 80 categories of things and 53 of stuff in 12 and 15 supercategories; the U2Seg paper scores 80 + 15.

        Raises:
            UsageError: a level is neither.
            DataError: supercategories are asked for and do not tell the categories of ``gt`` apart, or it has a class
                that ``like`` has not.
        """
        for level in (things, stuff):
            lookup("level of classes", level, dict.fromkeys(LEVELS))
        for level, isthing, kind in ((things, True, "things"), (stuff, False, "stuff")):
            if level == "supercategory":
                gt.check_supercategories(isthing, f"use --gt-{kind} category (TEST.MATCHING.{kind.upper()})")
        number_of = {key: number for number, key in enumerate(like.keys if like else ())}
        class_of = {}
        for category in (*gt.things, *gt.stuff):
            level = things if category.isthing else stuff
            key = category.name if level == "category" else category.supercategory, category.isthing
            if like and key not in number_of:
                raise DataError(
                    f"{gt.json_file} has the class {key[0]!r}, which the ground truth to score against has not"
                )
            class_of[category.id] = number_of.setdefault(key, len(number_of))
        return cls(tuple(number_of), class_of, things, stuff)


@dataclass(frozen=True)
class Scoring:
    """How a set is matched and scored: ``TEST.MATCHING``, or the options of ``tools/evaluate_pseudo.py``."""

    policies: Sequence[str] = DEFAULT_POLICIES
    things: str = "category"  # level of human thing classes, see Taxonomy.of
    stuff: str = "supercategory"  # level of human stuff classes
    # When something votes in `u2seg_paper`; what the labels' scores mean decides what 0.6 means.
    box_iou: float = 0.7  # a thing's box and a human one's: above this
    score: float = 0.6  # a thing's score: at least this
    stuff_iou: float = 0.15  # masks of stuff: above this
    matching: Path | None = None  # a saved matching to use instead of fitting one
    folds: int = 0  # 2 or more: also figures of matchings fitted on the other folds
    seeds: int = 3  # runs of the chance control
    backend: str | None = None  # COCO library; the fastest installed if None

    def __post_init__(self) -> None:
        for policy in self.policies:
            lookup("matching policy (--policies, TEST.MATCHING.POLICIES)", policy, RULES)
        if self.seeds < 0:
            raise UsageError(f"--seeds (TEST.MATCHING.SEEDS) takes 0 or more, not {self.seeds}")
        if self.matching and self.folds:
            raise UsageError("--matching (TEST.MATCHING.FIT_ON) fits nothing, so --folds can't go with it")


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
        clusters, classes = linear_sum_assignment(overlap, maximize=True)
        matched[clusters] = np.where(overlap[clusters, classes] > 0, classes, VOID)
    if rule != ONE_TO_ONE:
        majority = np.where(overlap.max(axis=1) > 0, overlap.argmax(axis=1), VOID)
        matched = np.where(matched == VOID, majority, matched)
    return matched


def match_kinds(table: np.ndarray, cluster_isthing: np.ndarray, class_isthing: np.ndarray, policy: str) -> np.ndarray:
    """`match_clusters` of ``table`` int64 (L, C) for things and for stuff, given bool (L,) and (C,): int64 (L,)."""
    matched = np.full(len(table), VOID, np.int64)
    for kind in (True, False):
        clusters, classes = np.flatnonzero(cluster_isthing == kind), np.flatnonzero(class_isthing == kind)
        of_kind = match_clusters(table[np.ix_(clusters, classes)], policy)
        matched[clusters] = np.append(classes, VOID)[of_kind]  # VOID is -1, the last entry
    return matched


def pixel_evidence(table: Table, gt_class: np.ndarray, shape: tuple[int, int]) -> coo_array:
    """Evidence of ``shape`` (U, C): pixels that thing shares with thing, stuff with stuff; ``gt_class`` int64 (G,)."""
    inside = (table.pair_gt != VOID) & (table.pair_pred != VOID)
    gt, pred, pixels = table.pair_gt[inside], table.pair_pred[inside], table.pixels[inside]
    same = table.gt["isthing"][gt] == table.pred["isthing"][pred]
    return coo_array((pixels[same], (pred[same], gt_class[gt[same]])), shape)


def thing_votes(
    table: Table, gt_class: np.ndarray, voters: np.ndarray, box_iou: float, score: float
) -> tuple[np.ndarray, np.ndarray]:
    """A vote for each human thing, crowds included, whose box a voter of at least ``score`` hits by over ``box_iou``.

    Voters are things or detections, `SEGMENT` (V,); ``gt_class`` is int64 (G,).

    Returns:
        Of each vote, the voter in [0, V) and the class, int64.
    """
    humans, sure = np.flatnonzero(table.gt["isthing"]), np.flatnonzero(voters["score"] >= score)
    images = np.arange(1, table.num_images)
    humans_by_image = np.split(humans, np.searchsorted(table.gt["image"][humans], images))
    voters_by_image = np.split(sure, np.searchsorted(voters["image"][sure], images))
    votes = []
    for gt, voter in zip(humans_by_image, voters_by_image, strict=True):
        iou = coco.iou(voters["box"][voter], table.gt["box"][gt], np.zeros(len(gt)))  # [] where there are none
        first, second = np.nonzero(np.reshape(iou, (len(voter), len(gt))) > box_iou)
        votes.append((voter[first], gt_class[gt[second]]))
    voter, target = np.concatenate(votes, axis=1)
    return voter, target


def stuff_votes(table: Table, gt_class: np.ndarray, stuff_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """A vote for each predicted and human stuff class of one photo whose masks exceed ``stuff_iou``.

    Returns:
        Of each vote, the predicted segment, or region, in [0, P) and the class, int64.
    """
    stuff = ~table.gt["isthing"] & ~table.gt["crowd"]
    number, regions = merge_segments(table.gt, np.where(stuff, gt_class, VOID), stuff)
    use = (table.pair_gt != VOID) & (table.pair_pred != VOID)
    use[use] = stuff[table.pair_gt[use]] & ~table.pred["isthing"][table.pair_pred[use]]
    pred, region, shared = sum_pairs(table.pair_pred[use], number[table.pair_gt[use]], table.pixels[use])
    hit = shared / (regions["area"][region] + table.pred["area"][pred] - shared) > stuff_iou
    return pred[hit], regions["category"][region[hit]]
