"""The arrays that pass between stages, each checked once, where it enters.

Shapes: ``H, W`` image pixels; ``h, w`` any grid that covers the whole image (feature grid or pixels);
``D`` feature channels; ``N`` masks; ``K`` thing clusters; ``S`` stuff classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import DataError

STUFF_VOID = 255
"""Value of a stuff map, and of ``sem_seg``, where there is nothing."""

MAX_STUFF = 254
"""Most stuff classes that fit into a uint8 map beside `STUFF_VOID`."""


@dataclass(frozen=True)
class LabelSpace:
    """K thing clusters and S stuff classes, and the one place that numbers them.

    ============================ ========== ============== =======
    where                        things     stuff          nothing
    ============================ ========== ============== =======
    ``category_id`` in files     1..K       K+1..K+S
    contiguous thing id          0..K-1
    ``sem_seg``                  0          1..S           255
    ============================ ========== ============== =======
    """

    num_things: int
    num_stuff: int

    def __post_init__(self) -> None:
        if self.num_things < 0 or not 0 <= self.num_stuff <= MAX_STUFF:
            raise DataError(
                f"a label space has 0 or more things and 0 to {MAX_STUFF} stuff classes, "
                f"not {self.num_things} and {self.num_stuff}"
            )

    def thing_category(self, cluster: int) -> int:
        """``category_id`` of thing cluster ``cluster`` in [0, K)."""
        return int(cluster) + 1

    def stuff_category(self, stuff: int) -> int:
        """``category_id`` of stuff class ``stuff`` in [0, S)."""
        return self.num_things + int(stuff) + 1

    def is_thing(self, category_id: int) -> bool:
        """Whether ``category_id`` names a thing cluster."""
        return 1 <= category_id <= self.num_things

    def categories(self) -> list[dict[str, Any]]:
        """The ``categories`` list of a COCO panoptic JSON: id, name, supercategory, isthing, color (RGB)."""
        return [
            {
                "id": index,
                "name": str(index),
                "supercategory": "thing" if self.is_thing(index) else "stuff",
                "isthing": int(self.is_thing(index)),
                "color": category_color(index),
            }
            for index in range(1, self.num_things + self.num_stuff + 1)
        ]


def category_color(category_id: int) -> list[int]:
    """A steady, well-spread RGB colour (0..255) for ``category_id``: hues turn by the golden angle."""
    import colorsys

    hue = (category_id * 0.618033988749895) % 1.0
    value = (0.95, 0.75, 0.55)[category_id % 3]
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.65, value)]


@dataclass(frozen=True)
class MaskSet:
    """Binary masks of one image, which may overlap, and how good each is."""

    masks: np.ndarray
    """bool (N, h, w), none empty; any grid that covers the whole image."""
    scores: np.ndarray
    """float32 (N,) in [0, 1], higher is better."""

    def __post_init__(self) -> None:
        if self.masks.dtype != bool or self.masks.ndim != 3:
            raise DataError(f"masks must be bool (N, h, w), not {self.masks.dtype} {self.masks.shape}")
        if self.scores.dtype != np.float32 or self.scores.shape != self.masks.shape[:1]:
            raise DataError(f"scores must be float32 ({len(self.masks)},), not {self.scores.dtype} {self.scores.shape}")
        if len(self.masks) and not self.masks.reshape(len(self.masks), -1).any(axis=1).all():
            raise DataError("a mask is empty; leave it out instead")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise DataError("scores must lie in [0, 1]")

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, index: np.ndarray) -> MaskSet:
        """The masks at ``index``, int (M,) or bool (N,), in that order."""
        return MaskSet(self.masks[index], self.scores[index])

    @classmethod
    def empty(cls, height: int, width: int) -> MaskSet:
        """No masks on a grid of ``height`` x ``width``."""
        return cls(np.zeros((0, height, width), bool), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Segment:
    """One entry of ``segments_info``: a connected or scattered region with one label."""

    id: int
    category_id: int
    isthing: bool
    area: int
    """pixels"""
    bbox: tuple[int, int, int, int]
    """x, y, width, height in pixels"""
    score: float = 1.0

    def to_coco(self) -> dict[str, Any]:
        """The segment as a ``segments_info`` entry."""
        return {
            "id": self.id,
            "category_id": self.category_id,
            "isthing": int(self.isthing),
            "area": self.area,
            "bbox": list(self.bbox),
            "iscrowd": 0,
            "score": round(self.score, 6),
        }


@dataclass(frozen=True)
class PanopticLabel:
    """Every pixel of one image in at most one segment."""

    segment_ids: np.ndarray
    """int32 (H, W), 0 where there is no segment."""
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.segment_ids.dtype != np.int32 or self.segment_ids.ndim != 2:
            raise DataError(f"segment_ids must be int32 (H, W), not {self.segment_ids.dtype} {self.segment_ids.shape}")
        counts = np.bincount(self.segment_ids.ravel(), minlength=1)
        areas = {segment.id: segment.area for segment in self.segments}
        if areas != {int(index): int(counts[index]) for index in np.flatnonzero(counts) if index}:
            raise DataError("segments do not list exactly the ids and areas of segment_ids")
