"""From an entry's files to the three region maps that are drawn: things, stuff, panoptic.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels of the picture; ``K`` thing classes; ``S`` stuff classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from u2seg.errors import DataError
from u2seg.images import enlarge
from u2seg.report.draw import DIMMED, HATCHED, Layer, Region, draw_layer
from u2seg.report.source import Category, Entry
from u2seg.structures import STUFF_VOID

VIEWS = ("things", "stuff", "panoptic")


class Labels:
    """The label files of one entry, each read at most once."""

    def __init__(self, entry: Entry, categories: Mapping[int, Category]) -> None:
        """Read the panoptic PNG of ``entry``.

        Raises:
            DataError: it is missing, broken or of another size than ``panoptic.json`` says.
        """
        self.entry = entry
        self.categories = categories
        self.ids = _read_ids(entry)

    def layer(self, view: str, size: tuple[int, int], thumbnail: int) -> Layer:
        """The layer ``view`` at ``size`` (width, height)."""
        make = {"things": self._things, "stuff": self._stuff, "panoptic": self._panoptic}[view]
        regions_map, regions = make(size[1], size[0])
        return draw_layer(regions_map, regions, thumbnail)

    def mask(self, annotation: Mapping[str, Any]) -> np.ndarray:
        """bool (H, W): the pixels of an instance, or of a segment of ``segments_info``."""
        if "segmentation" in annotation:
            return enlarge(decode_rle(annotation["segmentation"]), *self.ids.shape)
        return self.ids == annotation["id"]

    def _region(self, category_id: int, area: float, score: float) -> Region:
        category = self.categories[category_id]
        return Region(category_id, category.color, category.name, round(float(area), 5), round(float(score), 4))

    def _annotated(self, annotation: Mapping[str, Any]) -> Region:
        share = float(annotation["area"]) / max(1, self.ids.size)
        return self._region(annotation["category_id"], share, float(annotation.get("score", 1.0)))

    def _segments(self, h: int, w: int, chosen: list[dict[str, Any]]) -> tuple[np.ndarray, list[Region]]:
        small = enlarge(self.ids, h, w)
        table = np.full(int(max(self.ids.max(), 0)) + 1, DIMMED, np.int32)
        table[0] = HATCHED
        for number, segment in enumerate(chosen, start=1):
            if 0 < segment["id"] < len(table):
                table[segment["id"]] = number
        return table[small], [self._annotated(segment) for segment in chosen]

    def _panoptic(self, h: int, w: int) -> tuple[np.ndarray, list[Region]]:
        return self._segments(h, w, list(self.entry.segments))

    def _things(self, h: int, w: int) -> tuple[np.ndarray, list[Region]]:
        if self.entry.instances is None:
            drawn, regions = self._segments(h, w, self.entry.things())
            return np.maximum(drawn, DIMMED), regions
        drawn = np.full((h, w), DIMMED, np.int32)
        ordered = sorted(self.entry.instances, key=lambda instance: -instance["area"])
        for number, instance in enumerate(ordered, start=1):
            drawn[enlarge(decode_rle(instance["segmentation"]), h, w)] = number
        return drawn, [self._annotated(instance) for instance in ordered]

    def _stuff(self, h: int, w: int) -> tuple[np.ndarray, list[Region]]:
        if not self.entry.stuff or not os.path.exists(self.entry.stuff):
            return self._segments(h, w, self.entry.stuff_segments())
        stuff = _read_array(self.entry.stuff)
        if stuff.ndim != 2 or stuff.dtype != np.uint8:
            raise DataError(f"the stuff map is {stuff.dtype} {stuff.shape}, not uint8 (h, w)")
        things = sum(category.isthing for category in self.categories.values())
        counts = np.bincount(stuff.ravel(), minlength=256)
        table = np.full(256, HATCHED, np.int32)
        regions = []
        for value in np.flatnonzero(counts):
            if value != STUFF_VOID and things + 1 + int(value) in self.categories:
                regions.append(self._region(things + 1 + int(value), counts[value] / stuff.size, 1.0))
                table[value] = len(regions)
        return table[enlarge(stuff, h, w)], regions


def decode_rle(segmentation: Any) -> np.ndarray:
    """bool (H, W) of a COCO run-length code, compressed or not.

    Raises:
        DataError: it is something else.
    """
    from pycocotools import mask

    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise DataError("a segmentation is not a run-length code with size and counts")
    code = dict(segmentation)
    try:
        if isinstance(code["counts"], str):
            code["counts"] = code["counts"].encode("ascii")
        elif isinstance(code["counts"], list):
            code = mask.frPyObjects(code, *code["size"])
        return mask.decode(code).astype(bool)
    except (TypeError, ValueError) as error:
        raise DataError(f"a run-length code can't be read: {error}") from error


def _read_ids(entry: Entry) -> np.ndarray:
    """int32 (H, W) segment ids of the panoptic PNG."""
    if not entry.label:
        raise DataError("panoptic.json has no annotation for it")
    rgb = _read_array(entry.label)
    if rgb.ndim != 3 or rgb.shape[2] < 3:
        raise DataError(f"the panoptic PNG is not RGB but {rgb.shape}")
    if rgb.shape[:2] != (entry.height, entry.width):
        raise DataError(f"the panoptic PNG is {rgb.shape[1]}x{rgb.shape[0]}, not {entry.width}x{entry.height}")
    wide = rgb.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def _read_array(path: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image)
    except FileNotFoundError as error:
        raise DataError(f"no label {os.path.basename(path)}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"label {os.path.basename(path)} can't be read: {error}") from error
