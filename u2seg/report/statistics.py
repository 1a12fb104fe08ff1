"""What a dataset holds, counted; and which masks stand for their class.

Shapes: ``P`` photos; ``A`` annotations.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from u2seg.panoptic import PanopticDataset
from u2seg.report.labels import Annotation


class ClassCount(NamedTuple):
    """How often a class occurs. For things that is counted in masks, for stuff in segments."""

    segments: int
    photos: int
    mean_score: float
    areas: np.ndarray
    """float64 (A,), fraction of the photo, of those whose label could be read"""

    @property
    def mean_area(self) -> float:
        """Fraction of the photo."""
        return float(self.areas.mean()) if len(self.areas) else 0.0


@dataclass(frozen=True)
class Summary:
    """Counts over the whole set."""

    classes: dict[int, ClassCount]
    """By category id; every category has an entry."""
    segments: np.ndarray
    """int64 (P,), panoptic segments of each photo"""
    voids: np.ndarray
    """float64 (P,), fraction of a photo in no segment, of those whose label could be read"""


def summarise(
    dataset: PanopticDataset,
    annotations: Sequence[Sequence[Annotation]],
    shares: Sequence[Sequence[float]],
    voids: Sequence[float | None],
) -> Summary:
    """Count ``dataset``.

    Args:
        dataset: P photos.
        annotations: those of each photo.
        shares: fraction of its photo that each annotation covers; empty where the label could not be read.
        voids: fraction of each photo in no segment; None where the label could not be read.
    """
    rows: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for number, of_photo in enumerate(annotations):
        for annotation, share in zip(of_photo, shares[number] or [np.nan] * len(of_photo), strict=True):
            rows[annotation.category_id].append((number, annotation.score, share))
    classes = {}
    for category in dataset.categories:
        numbers, scores, areas = np.array(rows[category.id], np.float64).reshape(-1, 3).T
        mean_score = float(scores.sum() / max(1, len(scores)))
        classes[category.id] = ClassCount(len(scores), len(set(numbers)), mean_score, areas[~np.isnan(areas)])
    segments = np.array([len(photo.segments) for photo in dataset.photos], np.int64)
    return Summary(classes, segments, np.array([void for void in voids if void is not None], np.float64))


def choose_crops(annotations: Sequence[Sequence[Annotation]], per_class: int, seed: int) -> dict[int, tuple[int, ...]]:
    """Which masks stand for their class: at most ``per_class`` of each, drawn by ``seed`` where there are more.

    Returns:
        For each position in ``annotations``, positions of its chosen ones, ascending.
    """
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, of_photo in enumerate(annotations):
        for position, annotation in enumerate(of_photo):
            places[annotation.category_id].append((number, position))
    chosen: dict[int, list[int]] = defaultdict(list)
    for category_id, candidates in places.items():
        sample = random.Random(f"{seed} {category_id}").sample(candidates, min(per_class, len(candidates)))
        for number, position in sample:
            chosen[number].append(position)
    return {number: tuple(sorted(positions)) for number, positions in chosen.items()}
