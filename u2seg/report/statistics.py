"""What a dataset holds, counted from its JSON alone."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from u2seg.report.source import LabelledSet


@dataclass(frozen=True)
class ClassCount:
    """How often a pseudo-class occurs. For things that is counted in masks, for stuff in segments."""

    segments: int
    photos: int
    mean_area: float
    """fraction of the photo"""
    mean_score: float


@dataclass(frozen=True)
class Summary:
    """Counts over the whole set; arrays have one number per segment or per photo."""

    classes: dict[int, ClassCount]
    """By category id; every category has an entry."""
    thing_areas: np.ndarray
    """float64, fraction of the photo, one per thing mask"""
    stuff_areas: np.ndarray
    """float64, fraction of the photo, one per stuff segment"""
    segments_per_photo: np.ndarray
    """int64, panoptic segments of each photo"""
    void_shares: np.ndarray
    """float64, fraction of each photo in no segment"""


def summarise(dataset: LabelledSet) -> Summary:
    """Count ``dataset``."""
    found: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for number, entry in enumerate(dataset.entries):
        pixels = max(1, entry.width * entry.height)
        for item in entry.things() + entry.stuff_segments():
            found[item["category_id"]].append((number, item["area"] / pixels, float(item.get("score", 1.0))))
    classes = {}
    for category_id in dataset.categories:
        rows = found.get(category_id, [])
        photos = len({number for number, _, _ in rows})
        area = sum(row[1] for row in rows) / max(1, len(rows))
        score = sum(row[2] for row in rows) / max(1, len(rows))
        classes[category_id] = ClassCount(len(rows), photos, area, score)
    areas: dict[bool, list[float]] = {True: [], False: []}
    for category_id, rows in found.items():
        areas[dataset.categories[category_id].isthing] += [row[1] for row in rows]
    return Summary(
        classes,
        np.array(areas[True]),
        np.array(areas[False]),
        np.array([len(entry.segments) for entry in dataset.entries], np.int64),
        np.array([entry.void_share() for entry in dataset.entries]),
    )


def choose_crops(dataset: LabelledSet, per_class: int, seed: int) -> dict[int, list[int]]:
    """Which segments stand for their class: at most ``per_class`` of each, drawn by ``seed`` where there are more.

    Returns:
        For each index into ``dataset.entries``, positions in its ``things() + stuff_segments()``, ascending.
    """
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, entry in enumerate(dataset.entries):
        for position, item in enumerate(entry.things() + entry.stuff_segments()):
            found[item["category_id"]].append((number, position))
    chosen: dict[int, list[int]] = defaultdict(list)
    for category_id in sorted(found):
        places = found[category_id]
        if len(places) > per_class:
            places = random.Random(f"{seed} {category_id}").sample(places, per_class)
        for number, position in places:
            chosen[number].append(position)
    return {number: sorted(positions) for number, positions in chosen.items()}
