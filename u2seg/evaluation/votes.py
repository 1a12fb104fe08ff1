"""Evidence as the U2Seg paper counts it (arXiv 2312.17243, section 4 and its released evaluation).

A thing votes for the class of a human object that its box hits (IoU over 0.7) if its score is at least 0.6; a stuff
region votes for a human stuff class if their masks in that photo have an IoU over 0.15; then the majority wins, of
equals the first class. What the labels' scores mean decides what 0.6 means, so all thresholds are arguments.

Shapes: ``G`` true segments of the set; ``V`` voters; ``B`` pairs of boxes in one photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.evaluation.joined import VOID, OverlapSet
from u2seg.evaluation.matching import Evidence
from u2seg.evaluation.quality import merge_segments

BOX_IOU = 0.7
SCORE = 0.6
STUFF_IOU = 0.15


@dataclass(frozen=True)
class Voters:
    """Things that may vote: segments, or detections; ``V`` of them."""

    number: np.ndarray
    """int64 (V,), what `Evidence.pred` calls them."""
    image: np.ndarray
    """int64 (V,), rising."""
    box: np.ndarray
    """float64 (V, 4): x, y, width, height in pixels."""
    score: np.ndarray
    """float64 (V,)"""


def thing_votes(
    overlaps: OverlapSet, gt_class: np.ndarray, voters: Voters, box_iou: float = BOX_IOU, score: float = SCORE
) -> Evidence:
    """A vote for each pair of a voter and a human thing, crowds included, whose boxes overlap enough."""
    gt = np.flatnonzero(overlaps.gt.isthing)
    pred = np.flatnonzero(voters.score >= score)
    left, right = _within_images(overlaps.gt_image[gt], voters.image[pred], overlaps.num_images)
    gt, pred = gt[left], pred[right]
    hit = paired_box_iou(overlaps.gt.box[gt], voters.box[pred]) > box_iou
    return Evidence(voters.number[pred[hit]], gt_class[gt[hit]], np.ones(int(hit.sum()), np.int64))


def stuff_votes(overlaps: OverlapSet, gt_class: np.ndarray, stuff_iou: float = STUFF_IOU) -> Evidence:
    """A vote for each pair of a predicted stuff segment and a human stuff class in one photo that overlap enough."""
    stuff = ~overlaps.gt.isthing & ~overlaps.gt.crowd
    group, count = merge_segments(overlaps.gt_image, gt_class, stuff)
    area = np.bincount(group, weights=overlaps.gt.area, minlength=count)
    target = np.zeros(count, np.int64)
    target[group] = gt_class
    use = (overlaps.pair_gt != VOID) & (overlaps.pair_pred != VOID)
    use[use] = stuff[overlaps.pair_gt[use]] & ~overlaps.pred.isthing[overlaps.pair_pred[use]]
    key = overlaps.pair_pred[use] * np.int64(max(count, 1)) + group[overlaps.pair_gt[use]]
    keys, inverse = np.unique(key, return_inverse=True)
    shared = np.bincount(inverse.reshape(-1), weights=overlaps.pixels[use], minlength=len(keys))
    pred, region = np.divmod(keys, max(count, 1))
    hit = shared / (area[region] + overlaps.pred.area[pred] - shared) > stuff_iou
    return Evidence(pred[hit], target[region[hit]], np.ones(int(hit.sum()), np.int64))


def _within_images(first: np.ndarray, second: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 (B,) and (B,) of all pairs in ``first`` and ``second``, rising image indices, of one image."""
    counts = np.bincount(second, minlength=num_images)
    starts = np.cumsum(counts) - counts
    repeats = counts[first]
    left = np.repeat(np.arange(len(first)), repeats)
    within = np.arange(len(left)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return left, np.repeat(starts[first], repeats) + within


def paired_box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU float64 (B,) of boxes float64 (B, 4), x, y, width, height, row by row."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)
