"""What a dataset holds, counted; and which masks stand for their class.

Shapes: ``P`` photos; ``A`` annotations.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from u2seg.panoptic import PanopticDataset
from u2seg.report.labels import Annotation


class ClassCount(NamedTuple):
    """How often a class occurs, for things in masks, for stuff in segments."""

    segments: int
    photos: int
    mean_score: float
    mean_area: float
    areas: np.ndarray  # float64 (A,), fractions of the photo, of photos whose label could be read


class Summary(NamedTuple):
    """Counts over the whole set."""

    classes: dict[int, ClassCount]  # every class, by category id
    segments: np.ndarray  # int64 (P,), panoptic segments of each photo
    voids: np.ndarray  # float64 (P,), the fraction of a photo in no segment, of photos whose label could be read


def summarise(
    dataset: PanopticDataset,
    annotations: Sequence[Sequence[Annotation]],
    shares: Sequence[Sequence[float]],
    voids: Sequence[float],
) -> Summary:
    """Count ``dataset``, given the annotations of each photo and what share of it each covers, or none if unreadable."""
    rows: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for number, of_photo in enumerate(annotations):
        for annotation, share in zip(of_photo, shares[number] or [np.nan] * len(of_photo), strict=True):
            rows[annotation.category_id].append((number, annotation.score, share))
    classes = {}
    for category in dataset.categories:
        numbers, scores, areas = np.array(rows[category.id], np.float64).reshape(-1, 3).T
        areas = areas[~np.isnan(areas)]
        score, area = (float(values.sum() / max(1, len(values))) for values in (scores, areas))
        classes[category.id] = ClassCount(len(scores), len(set(numbers)), score, area, areas)
    return Summary(
        classes, np.array([len(photo.segments) for photo in dataset.photos], np.int64), np.array(voids, float)
    )


def choose_crops(annotations: Sequence[Sequence[Annotation]], per_class: int, seed: int = 0) -> dict[int, list[int]]:
    """Which masks stand for their class: at most ``per_class`` of each, drawn by ``seed`` where there are more.

    Returns:
        For each position in ``annotations``, positions of its chosen ones.
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
    return chosen
