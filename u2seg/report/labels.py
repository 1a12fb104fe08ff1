"""The masks of a dataset that are shown, counted, and which of them stand for their class.

Shapes: ``H, W`` photo pixels; ``A`` annotations.
"""

from __future__ import annotations

import os
import random
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from u2seg.errors import DataError
from u2seg.panoptic import LabelledPhoto, PanopticDataset, SegmentInfo, decode_mask, read_instances, read_panoptic
from u2seg.panoptic.photos import OnDemand


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


class Annotated(OnDemand[tuple[Annotation, ...]]):
    """For each photo its things as they were clustered (the instances, or else the thing segments), then its stuff.

    They are made when they are asked for.
    """

    def __init__(self, photos: Sequence[LabelledPhoto], instances: Mapping[Any, list[dict[str, Any]]] | None) -> None:
        self._photos, self._instances = photos, instances

    def first(self, count: int) -> Annotated:
        """Those of the first ``count`` photos."""
        return Annotated(self._photos[:count], self._instances)

    def __len__(self) -> int:
        return len(self._photos)

    def at(self, place: int) -> tuple[Annotation, ...]:
        """Annotations of the photo at ``place``."""
        photo = self._photos[place]
        things = [Annotation.of_segment(segment) for segment in photo.segments if segment.isthing]
        if self._instances is not None:
            whole = self._instances[photo.image_id]
            things = [Annotation(entry["category_id"], entry["score"], 0, entry["segmentation"]) for entry in whole]
        return (*things, *(Annotation.of_segment(s) for s in photo.segments if not s.isthing))


def read_annotated(
    folder: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None
) -> tuple[PanopticDataset, Annotated]:
    """Read a dataset, and what is shown of each of its photos."""
    dataset = read_panoptic(Path(folder), image_root=Path(image_root) if image_root else None)
    return dataset, Annotated(dataset.photos, read_instances(dataset))


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
    columns: tuple[array[Any], ...] = (array("i"), array("i"), array("d"), array("d"))
    for number, of_photo in enumerate(annotations):
        for annotation, share in zip(of_photo, shares[number] or [np.nan] * len(of_photo), strict=True):
            for column, value in zip(columns, (annotation.category_id, number, annotation.score, share), strict=True):
                column.append(value)
    categories, numbers, scores, areas = map(np.asarray, columns)
    classes = {}
    for category in dataset.categories:
        members = np.flatnonzero(categories == category.id)
        classes[category.id] = _count(numbers[members], scores[members], areas[members])
    counts = np.fromiter((len(photo.segments) for photo in dataset.photos), np.int64, len(dataset.photos))
    return Summary(classes, *(float(np.mean(values)) if len(values) else None for values in (counts, voids)))


def _count(numbers: np.ndarray, scores: np.ndarray, areas: np.ndarray) -> ClassCount:
    """Of one class: photos int (A,), scores and shares float64 (A,), nan where a label could not be read."""
    areas = areas[~np.isnan(areas)]
    score, area = (float(values.sum() / max(1, len(values))) for values in (scores, areas))
    return ClassCount(len(scores), len(np.unique(numbers)), score, area, areas)


def choose_crops(annotations: Sequence[Sequence[Annotation]], per_class: int) -> dict[int, list[int]]:
    """Which masks stand for their class: at most ``per_class`` of each, drawn at random, but every time the same.

    Returns:
        For each position in ``annotations``, positions of its chosen ones.
    """
    categories, ends = array("i"), array("q")
    for of_photo in annotations:
        categories.extend(annotation.category_id for annotation in of_photo)
        ends.append(len(categories))
    first = np.append(0, ends)
    order = np.argsort(categories, kind="stable")
    names, starts = np.unique(np.asarray(categories)[order], return_index=True)
    members = np.split(order, starts[1:])  # of each class
    chosen: dict[int, list[int]] = defaultdict(list)
    for index in np.argsort(order[starts]):  # in the order in which the classes come first
        draw = random.Random(int(names[index]))
        places = draw.sample(range(len(members[index])), min(per_class, len(members[index])))
        for place in members[index][places].tolist():
            number = int(np.searchsorted(first, place, "right")) - 1
            chosen[number].append(int(place - first[number]))
    return chosen
