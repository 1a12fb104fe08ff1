"""Masks of things as run-length codes: ``instances.json``, and one mask at a time.

Shapes: ``H, W`` image pixels; ``N`` photos; ``M`` annotations; ``n`` runs of a code, zeros first, down the columns.
"""

from __future__ import annotations

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
from u2seg.panoptic.stream import NoJsonError, read_members
from u2seg.panoptic.writing import INSTANCES_JSON, PANOPTIC_JSON


class Instances(Mapping[Any, list[dict[str, Any]]]):
    """Annotations of ``instances.json`` by image id, in columns of numbers and made dicts when they are asked for.

    They have ``id``, ``category_id`` (a thing's), ``segmentation`` (compressed run-length code
    ``{"size": [H, W], "counts": str}`` that covers its photo), ``area`` (its pixels), ``iscrowd``, ``score`` and
    ``segment_id``: the segment of the panoptic label that shows it, 0 for none, or None where the file does not say.
    """

    def __init__(self, dataset: PanopticDataset) -> None:
        """None so far, of the photos of ``dataset``."""
        self._place, self._photos = dataset.place, dataset.photos
        self.ids, self._segments, self._codes = Ids(), Ids(), Texts()
        self._of_photo, self._categories, self._areas = array("i"), array("i"), array("q")
        self._scores, self._crowds = array("d"), bytearray()

    def append(self, photo: int, entry: Mapping[str, Any]) -> None:
        """Add an annotation of the photo at place ``photo`` of the dataset."""
        self._of_photo.append(photo)
        self.ids.append(entry["id"])
        self._segments.append(entry["segment_id"])
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
        return [self._entry(place, self._photos.size(photo)) for place in places]

    def _entry(self, place: int, size: tuple[int, int]) -> dict[str, Any]:
        return {
            "id": self.ids[place],
            "category_id": self._categories[place],
            "segment_id": self._segments[place],
            "score": self._scores[place],
            "segmentation": {"size": list(size), "counts": self._codes[place]},
            "area": self._areas[place],
            "iscrowd": bool(self._crowds[place]),
        }


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
                check_numbers(key, _listed(key, value), dataset)
            if key == "annotations":
                instances = _instances(_listed(key, value), dataset)
        if instances is None:
            raise DataError("it has no list 'annotations'")
    except NoJsonError:
        raise
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return instances


def _listed(key: str, value: Any) -> Iterator[Any]:
    """``value``, that of ``key``, if it is a list."""
    if not isinstance(value, Iterator):
        raise DataError(f"it has no list {key!r}")
    return value


def _instances(entries: Iterator[Any], dataset: PanopticDataset) -> Instances:
    instances, things = Instances(dataset), {category.id for category in dataset.things}
    numbers, fault, stated = Ids(), None, StatedMasks()
    for position, entry in enumerate(entries):
        fields.told("it", fields.an_object, entry, position, "annotations")
        if entry.get("id") is not None:
            numbers.append(fields.told("an annotation", fields.identity, entry, "id"))
        try:
            if fault is None:
                stated.add(entry, _take(entry, instances, dataset, things))
        except DataError as error:  # said after ids that are given twice, which may be the cause
            fault = error
    refuse_duplicates(numbers, "annotation id")
    if fault is not None:
        raise fault
    stated.warn(dataset.root / INSTANCES_JSON)
    return instances


def _take(entry: Mapping[str, Any], instances: Instances, dataset: PanopticDataset, things: set[int]) -> dict[str, Any]:
    """Add the annotation ``entry`` to ``instances``; as it was added."""
    key = fields.told(f"annotation {entry.get('id')}", fields.identity, entry, "image_id")
    if key not in dataset.place:
        raise DataError(f"image id {key!r} has no label in {PANOPTIC_JSON}")
    place = dataset.place[key]
    subject = f"annotation {entry.get('id')} of {dataset.photos.file_names[place]!r}"
    instance: dict[str, Any] = fields.told(subject, _instance, entry, dataset.photos.size(place), things)
    instances.append(place, instance)
    return instance


def _instance(entry: Mapping[str, Any], size: tuple[int, int], things: set[int]) -> dict[str, Any]:
    """``entry`` with fields of the right types, its code compressed; the error is the end of a sentence."""
    category = fields.whole(entry, "category_id")
    score, segment = fields.number(entry, "score", 1.0), fields.whole(entry, "segment_id", default=None)
    if category not in things:
        raise DataError(f"has category_id {category}, which is no thing")
    code: Any = entry.get("segmentation")
    runs = count_runs(code)
    height, width = code["size"]
    if (height, width) != size:
        raise DataError(f"is {width} x {height} pixels (width x height), its photo {size[1]} x {size[0]}")
    if isinstance(code["counts"], list):
        code = _encode(_decode(runs, height, width))
    numbered = {"id": entry.get("id"), "category_id": category, "segment_id": segment}
    crowd, area = fields.flag(entry, "iscrowd", False), int(runs[1::2].sum())
    return {**numbered, "score": score, "segmentation": code, "area": area, "iscrowd": crowd}


def instance_entry(mask: np.ndarray, category_id: int, score: float) -> dict[str, Any] | None:
    """COCO annotation of ``mask`` bool (H, W) without its ids, or None where it is empty."""
    from pycocotools import mask as coco

    code = _encode(mask)
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


def decode_mask(segmentation: Mapping[str, Any]) -> np.ndarray:
    """Mask bool (H, W) of a run-length code, compressed or not.

    Raises:
        DataError: it is no run-length code.
    """
    return _decode(count_runs(segmentation), *segmentation["size"])


def count_runs(segmentation: Any) -> np.ndarray:
    """Lengths int64 (n,) of the runs of a run-length code, compressed or not.

    pycocotools reads beyond its memory where they do not sum to the size of the mask.

    Raises:
        DataError: it is no run-length code.
    """
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        remedy = "pycocotools' COCO.annToRLE makes codes of them"
        polygons = f"; polygons are not read: {remedy}" if isinstance(segmentation, list) else ""
        raise DataError(f"has no run-length code for its mask{polygons}")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(type(side) is int for side in size):
        raise DataError(f"has a run-length code of the size {str(size)[:60]!r}, not [height, width]")
    try:
        runs = np.array(counts, np.int64).reshape(-1) if isinstance(counts, list) else _decompress(counts)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise DataError(f"has a damaged run-length code: {type(error).__name__} {error}") from error
    if runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
        raise DataError(f"has a run-length code of {runs.sum()} pixels for a mask of {size[0]} x {size[1]}")
    return runs


def _decompress(counts: str | bytes) -> np.ndarray:
    """Runs int64 (n,) of COCO's compressed code: six bits a character, five of a number and one that it goes on.

    From the third on, a run is stored as its difference from the one before the last.
    """
    characters = np.frombuffer(counts if isinstance(counts, bytes) else counts.encode("ascii"), np.uint8) - 48
    if characters.max(initial=0) > 63:
        raise ValueError("a character out of range")
    last = np.flatnonzero(characters & 32 == 0)
    if len(characters) and (not len(last) or last[-1] != len(characters) - 1):
        raise ValueError("it ends within a number")
    starts = np.append(0, last + 1)[:-1].astype(np.int64)
    lengths = last + 1 - starts
    if lengths.max(initial=0) > 7:
        raise ValueError("a number out of range")
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & 31).astype(np.int64) << (5 * place), starts) if len(starts) else starts
    numbers -= np.where(characters[last] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def _decode(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask bool (H, W) of runs int64 (n,)."""
    mask: np.ndarray = np.repeat(np.arange(len(runs)) % 2 > 0, runs).reshape(width, height).T
    return mask


def _encode(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}
