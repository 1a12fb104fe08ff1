"""The masks of a dataset that are shown, counted, and which of them stand for their class.

Shapes: ``H, W`` photo pixels; ``A`` annotations.
"""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from u2seg.errors import DataError
from u2seg.panoptic import LabelledPhoto, SegmentInfo, decode_mask


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


Instances = Mapping[Any, list[dict[str, Any]]]
"""Those of ``instances.json`` by image id."""


def annotations_of(photo: LabelledPhoto, instances: Instances | None) -> tuple[Annotation, ...]:
    """Its things as they were clustered (the ``instances``, or else the thing segments), then its stuff."""
    things = [Annotation.of_segment(segment) for segment in photo.segments if segment.isthing]
    if instances is not None:
        whole = instances[photo.image_id]
        things = [Annotation(entry["category_id"], entry["score"], 0, entry["segmentation"]) for entry in whole]
    return (*things, *(Annotation.of_segment(segment) for segment in photo.segments if not segment.isthing))


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


def choose_crops(annotations: Iterable[Sequence[Annotation]], per_class: int) -> dict[int, list[int]]:
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
