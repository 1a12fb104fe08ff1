"""The masks of a dataset that are shown, counted, and which of them stand for their class.

Shapes: ``H, W`` photo pixels; ``A`` annotations.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from u2seg.errors import DataError
from u2seg.panoptic import PanopticDataset, SegmentInfo, decode_mask, read_instances, read_panoptic


class Annotation(NamedTuple):
    """A mask that is counted and shown: an instance, by its run-length code, or a segment, by its id in the PNG."""

    category_id: int
    score: float
    segment_id: int
    code: Mapping[str, Any] | None = None

    @classmethod
    def of_segment(cls, segment: SegmentInfo) -> Annotation:
        """A segment as an annotation."""
        return cls(segment.category_id, segment.score, segment.id)

    def mask(self, ids: np.ndarray) -> np.ndarray:
        """Its pixels, bool (H, W), in a photo with segment ids int32 (H, W).

        Raises:
            DataError: its run-length code is damaged, or of another size than the photo.
        """
        if self.code is None:
            return ids == self.segment_id
        mask = decode_mask(self.code)
        if mask.shape != ids.shape:
            raise DataError(f"an instance has {mask.shape[1]}x{mask.shape[0]} pixels, its photo another size")
        return mask


def read_annotated(
    folder: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None, limit: int | None = None
) -> tuple[PanopticDataset, list[tuple[Annotation, ...]]]:
    """Read a dataset.

    Returns:
        The first ``limit`` of its photos, and for each its things as they were clustered (the instances, or else the
        thing segments), then its stuff segments.
    """
    dataset = read_panoptic(Path(folder), image_root=Path(image_root) if image_root else None)
    instances = read_instances(dataset)
    dataset = replace(dataset, photos=dataset.photos[:limit])
    annotations = []
    for photo in dataset.photos:
        things = [Annotation.of_segment(segment) for segment in photo.segments if segment.isthing]
        if instances is not None:
            whole = instances[photo.image_id]
            things = [Annotation(entry["category_id"], entry["score"], 0, entry["segmentation"]) for entry in whole]
        annotations.append((*things, *(Annotation.of_segment(s) for s in photo.segments if not s.isthing)))
    return dataset, annotations


class ClassCount(NamedTuple):
    """How often a class occurs, for things in masks, for stuff in segments."""

    segments: int
    photos: int
    mean_score: float
    mean_area: float
    areas: np.ndarray  # float64 (A,), fractions of the photo, of photos whose label could be read


class Summary(NamedTuple):
    """Counts over the whole set; means are None where there is nothing to count."""

    classes: dict[int, ClassCount]  # every class, by category id
    mean_segments: float | None  # panoptic segments of a photo
    mean_void: float | None  # fraction of a photo in no segment, over photos whose label could be read


def summarise(
    dataset: PanopticDataset,
    annotations: Sequence[Sequence[Annotation]],
    shares: Sequence[Sequence[float]],
    voids: Sequence[float],
) -> Summary:
    """Count ``dataset``, given each photo's annotations and the share of it that each covers; none if unreadable."""
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
    counts = [len(photo.segments) for photo in dataset.photos]
    return Summary(classes, *(float(np.mean(values)) if values else None for values in (counts, voids)))


def choose_crops(annotations: Sequence[Sequence[Annotation]], per_class: int) -> dict[int, list[int]]:
    """Which masks stand for their class: at most ``per_class`` of each, drawn at random, but every time the same.

    Returns:
        For each position in ``annotations``, positions of its chosen ones.
    """
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, of_photo in enumerate(annotations):
        for position, annotation in enumerate(of_photo):
            places[annotation.category_id].append((number, position))
    chosen: dict[int, list[int]] = defaultdict(list)
    for category_id, candidates in places.items():
        for number, position in random.Random(category_id).sample(candidates, min(per_class, len(candidates))):
            chosen[number].append(position)
    return chosen
