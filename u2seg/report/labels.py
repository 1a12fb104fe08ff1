"""From a photo's labels to the three layers that are drawn: things, stuff, panoptic.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels of the picture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from u2seg.errors import DataError
from u2seg.images import enlarge
from u2seg.panoptic import LabelledPhoto, PanopticDataset, SegmentInfo, decode_mask, read_instances, read_panoptic
from u2seg.panoptic.agreement import segment_areas
from u2seg.report.draw import DIMMED, HATCHED, Layer, Region, draw_layer

VIEWS = ("things", "stuff", "panoptic")


class Annotation(NamedTuple):
    """A mask that is counted and shown: an instance, by its run-length code, or a segment, by its id in the PNG."""

    category_id: int
    score: float
    segment_id: int
    code: Mapping[str, Any] | None = None


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
        things, stuff = ([_annotate(s) for s in photo.segments if s.isthing == isthing] for isthing in (True, False))
        if instances is not None:
            whole = instances[photo.image_id]
            things = [Annotation(entry["category_id"], entry["score"], 0, entry["segmentation"]) for entry in whole]
        annotations.append((*things, *stuff))
    return dataset, annotations


def _annotate(segment: SegmentInfo) -> Annotation:
    return Annotation(segment.category_id, segment.score, segment.id)


class Labels:
    """The labels of one photo: its PNG read once, the mask of an instance decoded when it is asked for."""

    def __init__(self, dataset: PanopticDataset, photo: LabelledPhoto, annotations: Sequence[Annotation] = ()) -> None:
        """Read the PNG of ``photo``.

        Raises:
            DataError: it is missing, broken, of another size than the JSON says, or holds ids that are not listed.
        """
        self.ids = dataset.read_ids(photo)
        segment_areas(self.ids, [segment.id for segment in photo.segments], dataset.png_path(photo))
        self._categories = {category.id: category for category in dataset.categories}
        self._shown = {
            "things": [a for a in annotations if self._categories[a.category_id].isthing],
            "stuff": [a for a in annotations if not self._categories[a.category_id].isthing],
            "panoptic": [_annotate(segment) for segment in photo.segments],
        }

    def mask(self, annotation: Annotation) -> np.ndarray:
        """The pixels of ``annotation``, bool (H, W).

        Raises:
            DataError: its run-length code is damaged, or of another size than the photo.
        """
        if annotation.code is None:
            return self.ids == annotation.segment_id
        mask = decode_mask(annotation.code)
        if mask.shape != self.ids.shape:
            raise DataError(f"an instance has {mask.shape[1]}x{mask.shape[0]} pixels, its photo another size")
        return mask

    def layer(self, view: str, size: tuple[int, int], thumbnail: int) -> Layer:
        """A layer, small masks over large ones.

        Args:
            view: one of `VIEWS`.
            size: width and height in pixels.
            thumbnail: longest side in pixels at which names shall not cover each other.
        """
        w, h = size
        ids = enlarge(self.ids, h, w)
        regions_map = np.where((ids == 0) & (view != "things"), HATCHED, DIMMED).astype(np.int32)
        shares = [(float(self.mask(annotation).mean()), annotation) for annotation in self._shown[view]]
        regions = []
        for share, annotation in sorted(shares, key=lambda pair: -pair[0]):
            category = self._categories[annotation.category_id]
            score = round(annotation.score, 4)
            regions.append(Region(category.id, category.color, category.name, round(share, 5), score))
            whole = annotation.code is not None
            mask = enlarge(self.mask(annotation), h, w) if whole else ids == annotation.segment_id
            regions_map[mask] = len(regions)
        return draw_layer(regions_map, regions, thumbnail)
