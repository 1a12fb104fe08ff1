"""Masks of things as run-length codes: ``instances.json``, and one mask at a time.

Shapes: ``H, W`` image pixels; ``N`` photos; ``M`` annotations.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from u2seg import fields
from u2seg.errors import DataError
from u2seg.panoptic.agreement import StatedMasks, check_numbers
from u2seg.panoptic.dataset import PanopticDataset
from u2seg.panoptic.photos import Ids, Texts, refuse_duplicates
from u2seg.panoptic.run_lengths import count_runs, decode_runs, encode_mask, mask_areas
from u2seg.panoptic.stream import NoJsonError, listed, read_members
from u2seg.panoptic.writing import INSTANCES_JSON, PANOPTIC_JSON

ENTRIES_AT_ONCE = 1000
"""Whose run-length codes are read in one pass."""


class Instances(Mapping[Any, list[dict[str, Any]]]):
    """Annotations of ``instances.json`` by image id, in columns of numbers and made dicts when they are asked for.

    They have ``id``, ``category_id`` (a thing's), ``segmentation`` (compressed run-length code
    ``{"size": [H, W], "counts": str}`` that covers its photo), ``area`` (its pixels), ``iscrowd``, ``score`` and
    ``segment_id``: the segment of the panoptic label that shows it, 0 for none, or None where the file does not say.
    """

    def __init__(self, dataset: PanopticDataset) -> None:
        """None so far, of the photos of ``dataset``."""
        self._place, self._photos = dataset.place, dataset.photos
        self.ids, self.segment_ids, self._codes = Ids(), Ids(), Texts()
        self._of_photo, self._categories, self._areas = array("i"), array("i"), array("q")
        self._scores, self._crowds = array("d"), bytearray()

    def append(self, photo: int, entry: Mapping[str, Any]) -> None:
        """Add an annotation of the photo at place ``photo`` of the dataset."""
        self._of_photo.append(photo)
        self.ids.append(entry["id"])
        self.segment_ids.append(entry["segment_id"])
        self._codes.append(entry["segmentation"]["counts"])
        self._categories.append(entry["category_id"])
        self._areas.append(entry["area"])
        self._scores.append(entry["score"])
        self._crowds.append(entry["iscrowd"])

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Places int64 (M,) of the annotations, photo by photo, and int64 (N + 1,) where among them a photo begins."""
        of_photo = np.array(self._of_photo, np.int64)
        counts = np.bincount(of_photo, minlength=len(self._place))
        return np.argsort(of_photo, kind="stable"), np.append(0, np.cumsum(counts))

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._place)

    def __getitem__(self, image_id: Any) -> list[dict[str, Any]]:
        photo, (order, starts) = self._place[image_id], self._order
        places = order[starts[photo] : starts[photo + 1]].tolist()
        return [
            {
                "id": self.ids[place],
                "category_id": self._categories[place],
                "segment_id": self.segment_ids[place],
                "score": self._scores[place],
                "segmentation": {"size": list(self._photos.size(photo)), "counts": self._codes[place]},
                "area": self._areas[place],
                "iscrowd": bool(self._crowds[place]),
            }
            for place in places
        ]


def read_instances(dataset: PanopticDataset) -> Instances | None:
    """The ``instances.json`` beside ``dataset``; None where there is no such file.

    Raises:
        DataError: the file is damaged, or names photos or categories that ``dataset`` does not have.
    """
    file = dataset.root / INSTANCES_JSON
    if not file.is_file():
        return None
    instances, fault = None, None
    try:
        for key, value in read_members(file, ("annotations", "images", "categories")):
            if key in ("images", "categories") and value:
                check_numbers(key, listed(key, value), dataset)
            if key == "annotations":
                try:
                    instances, fault = _instances(listed(key, value), dataset), None
                except NoJsonError:
                    raise
                except DataError as error:  # said after lists that number otherwise, which may be the cause
                    fault = error
        if fault is not None:
            raise fault
        if instances is None:
            raise DataError("it has no list 'annotations'")
    except NoJsonError:
        raise
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return instances


def _instances(entries: Iterator[Any], dataset: PanopticDataset) -> Instances:
    instances, things = Instances(dataset), {category.id for category in dataset.things}
    numbers, fault, stated = Ids(), None, StatedMasks()
    numbered = _numbered(entries, numbers)
    while block := list(itertools.islice(numbered, ENTRIES_AT_ONCE)):
        try:
            if fault is None:
                areas = mask_areas([entry.get("segmentation") for entry in block])
                pairs = zip(block, areas, strict=True)
                stated.add(block, [_take(entry, area, instances, dataset, things) for entry, area in pairs])
        except DataError as error:  # said after ids that are given twice, which may be the cause
            fault = error
    refuse_duplicates(numbers, "annotation id")
    if fault is not None:
        raise fault
    stated.warn(dataset.root / INSTANCES_JSON)
    return instances


def _numbered(entries: Iterator[Any], numbers: Ids) -> Iterator[Mapping[str, Any]]:
    """``entries``, which must be objects; their ids are added to ``numbers``."""
    for position, entry in enumerate(entries):
        fields.told("it", fields.an_object, entry, position, "annotations")
        if entry.get("id") is not None:
            numbers.append(fields.told("an annotation", fields.identity, entry, "id"))
        yield entry


def _take(
    entry: Mapping[str, Any], area: int | None, instances: Instances, dataset: PanopticDataset, things: set[int]
) -> dict[str, Any]:
    """Add the annotation ``entry``, of ``area`` pixels if known, to ``instances``; as it was added."""
    key = fields.told(f"annotation {entry.get('id')}", fields.identity, entry, "image_id")
    if key not in dataset.place:
        raise DataError(f"image id {key!r} has no label in {PANOPTIC_JSON}")
    place = dataset.place[key]
    try:
        instance = _instance(entry, area, dataset.photos.size(place), things)
    except DataError as error:
        raise DataError(f"annotation {entry.get('id')} of {dataset.photos.file_names[place]!r} {error}") from error
    instances.append(place, instance)
    return instance


def _instance(entry: Mapping[str, Any], area: int | None, size: tuple[int, int], things: set[int]) -> dict[str, Any]:
    """``entry`` with fields of the right types, its code compressed; the error is the end of a sentence."""
    category = fields.whole(entry, "category_id")
    score, segment = fields.number(entry, "score", 1.0), fields.whole(entry, "segment_id", default=None)
    if category not in things:
        raise DataError(f"has category_id {category}, which is no thing")
    code: Any = entry.get("segmentation")
    runs = count_runs(code) if area is None else None
    height, width = code["size"]
    if (height, width) != size:
        raise DataError(f"is {width} x {height} pixels (width x height), its photo {size[1]} x {size[0]}")
    if runs is not None:
        area = int(runs[1::2].sum())
        if isinstance(code["counts"], list):
            code = encode_mask(decode_runs(runs, height, width))
    numbered = {"id": entry.get("id"), "category_id": category, "segment_id": segment}
    crowd = fields.flag(entry, "iscrowd", False)
    return {**numbered, "score": score, "segmentation": code, "area": area, "iscrowd": crowd}


def instance_entry(mask: np.ndarray, category_id: int, score: float) -> dict[str, Any] | None:
    """COCO annotation of ``mask`` bool (H, W) without its ids, or None where it is empty."""
    from pycocotools import mask as coco

    code = encode_mask(mask)
    area = int(coco.area(code))
    if not area:
        return None
    return {
        "category_id": int(category_id),
        "segmentation": code,
        "area": area,
        "bbox": [round(float(value), 1) for value in coco.toBbox(code)],
        "iscrowd": 0,
        "score": round(float(score), 6),
    }
