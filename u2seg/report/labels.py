"""The masks of a labelled photo that are counted and shown.

Shapes: ``H, W`` photo pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
