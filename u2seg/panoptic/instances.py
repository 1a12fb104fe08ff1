"""Masks of things as run-length codes: ``instances.json``, and one mask at a time.

Shapes: ``H, W`` image pixels.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from u2seg import fields
from u2seg.errors import DataError
from u2seg.panoptic.dataset import PanopticDataset
from u2seg.panoptic.photos import Packed, misstated, refuse_duplicates, stated_numbers
from u2seg.panoptic.reading import warn_of_statements
from u2seg.panoptic.run_lengths import count_runs, decode_runs, encode_mask, mask_areas
from u2seg.panoptic.stream import listed, read_members
from u2seg.panoptic.writing import INSTANCES_JSON, PANOPTIC_JSON

FIELDS = ("id", "category_id", "segment_id", "score", "segmentation", "area", "iscrowd")
ENTRIES_AT_ONCE = 1000
"""Whose run-length codes are read in one pass."""


class Instances(Mapping[Any, list[dict[str, Any]]]):
    """Annotations of ``instances.json`` by image id, packed, and made dicts when they are asked for.

    They have ``id``, ``category_id`` (a thing's), ``segmentation`` (compressed run-length code
    ``{"size": [H, W], "counts": str}`` that covers its photo), ``area`` (its pixels), ``iscrowd``, ``score`` and
    ``segment_id``: the segment of the panoptic label that shows it, 0 for none, or None where the file does not say.
    """

    def __init__(self, dataset: PanopticDataset) -> None:
        """None so far, of the photos of ``dataset``."""
        self._place, self._photos = dataset.place, dataset.photos
        self._entries, self._of_photo = Packed[tuple[Any, ...]](), [array("q") for _ in range(len(dataset.photos))]
        self.has_segment_ids = True
        """Whether the file says of every mask which segment shows it."""

    def append(self, photo: int, entry: Mapping[str, Any]) -> None:
        """Add an annotation of the photo at place ``photo`` of the dataset."""
        self._of_photo[photo].append(len(self._entries))
        self._entries.append(tuple({**entry, "segmentation": entry["segmentation"]["counts"]}.values()))
        self.has_segment_ids &= entry["segment_id"] is not None

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._place)

    def __getitem__(self, image_id: Any) -> list[dict[str, Any]]:
        photo = self._place[image_id]
        entries = [dict(zip(FIELDS, self._entries.at(place), strict=True)) for place in self._of_photo[photo]]
        size = self._photos.size(photo)
        return [e | {"segmentation": {"size": list(size), "counts": e["segmentation"]}} for e in entries]


def read_instances(dataset: PanopticDataset) -> Instances | None:
    """The ``instances.json`` beside ``dataset``; None where there is no such file.

    Raises:
        DataError: the file is damaged, or names photos or categories that ``dataset`` does not have.
    """
    file = dataset.root / INSTANCES_JSON
    if not file.is_file():
        return None
    instances = None
    try:
        for key, value in read_members(file, ("annotations", "images", "categories")):
            if key in ("images", "categories") and value:
                check_numbers(key, listed(key, value), dataset)
            elif key == "annotations":
                instances = _instances(listed(key, value), dataset)
        if instances is None:
            raise DataError("it has no list 'annotations'")
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return instances


def _instances(entries: Iterator[dict[str, Any]], dataset: PanopticDataset) -> Instances:
    instances, things = Instances(dataset), {category.id for category in dataset.things}
    numbers, total, wrong = Packed[Any](), 0, 0
    while block := list(itertools.islice(entries, ENTRIES_AT_ONCE)):
        areas = mask_areas([entry.get("segmentation") for entry in block])
        masks = [_take(*pair, instances, dataset, things) for pair in zip(block, areas, strict=True)]
        total, wrong = total + len(block), wrong + _count_misstated(block, masks)
        for entry in block:
            if entry.get("id") is not None:
                numbers.append(fields.told("an annotation", fields.identity, entry, "id"))
    refuse_duplicates(numbers, "annotation id")
    warn_of_statements(dataset.root / INSTANCES_JSON, total, wrong, what="masks")
    return instances


def _count_misstated(stated: Sequence[Mapping[str, Any]], masks: Sequence[Mapping[str, Any]]) -> int:
    """How many of the entries of a file have ``stated`` another area or box than their ``masks`` have."""
    from pycocotools import mask as coco

    boxes = coco.toBbox([mask["segmentation"] for mask in masks])
    areas = np.array([mask["area"] for mask in masks])
    return int(np.count_nonzero(misstated([stated_numbers(entry) for entry in stated], areas, boxes)))


def check_numbers(key: str, entries: Iterable[dict[str, Any]], dataset: PanopticDataset) -> None:
    """See that ``entries``, the list ``key`` of an ``instances.json``, are numbered as ``dataset`` is.

    A photo ("images") or class ("categories") may have another name there; but not that of one with another id.

    Raises:
        DataError: an id stands twice, or for another photo or class than in ``dataset``.
    """
    read_name: Callable[..., str] = fields.text
    name_key, numbers, ids = "name", {category.name: category.id for category in dataset.things}, Packed[Any]()
    stuff = {(category.id, category.name) for category in dataset.stuff}  # may share names with things
    if key == "images":
        read_name, name_key, stuff = fields.file_name, "file_name", set()
        numbers = dict(zip(dataset.photos.file_names, dataset.photos.image_ids, strict=True))
    for entry in entries:
        number = fields.told(f"an entry of {key!r}", fields.identity, entry, "id")
        ids.append(number)
        if entry.get(name_key) is None:
            continue
        name = fields.told(f"id {number!r} of {key!r}", read_name, entry, name_key)
        if numbers.get(name, number) != number and (number, name) not in stuff:
            where = f"in {dataset.json_file.name} {numbers[name]!r}"
            raise DataError(f"{name!r} of {key!r} has the id {number!r}, {where}; both files must number alike")
    refuse_duplicates(ids, f"of {key!r}, id")


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
    values = (entry.get("id"), category, segment, score, code, area, fields.flag(entry, "iscrowd", False))
    return dict(zip(FIELDS, values, strict=True))


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
