"""Whether JSON files and PNGs say the same. Pixels are the label; what a JSON repeats of them is only compared.

Shapes: ``H, W`` image pixels; ``n`` segments or masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from u2seg import fields
from u2seg.errors import DataError
from u2seg.panoptic.dataset import PanopticDataset
from u2seg.panoptic.photos import Ids, LabelledPhoto, refuse_duplicates
from u2seg.panoptic.reading import warn_once


def warn_of_areas(json_file: Path, stated: Sequence[float] | np.ndarray, areas: Sequence[int] | np.ndarray) -> None:
    """Log, once for each file, how many segments have other ``areas`` (n,) in the PNG than ``stated`` float64 (n,)."""
    stated = np.asarray(stated, np.float64)
    other = int(((stated != areas) & ~np.isnan(stated)).sum())
    empty = int((np.asarray(areas) == 0).sum())
    if other:
        warn_once(f"{json_file}: 'area' of {other} of {len(stated)} segments disagrees with the PNG, which counts")
    if empty:
        warn_once(f"{json_file}: {empty} of {len(stated)} segments have no pixel in the PNG")


def warn_of_boxes(json_file: Path, stated: np.ndarray, boxes: np.ndarray) -> None:
    """The same of ``boxes`` (n, 4), which may be a pixel away from those ``stated``: int (n, 4), -1 for none."""
    other = int(((np.abs(stated - boxes) > 1).any(axis=1) & (stated[:, 0] >= 0)).sum())
    if other:
        warn_once(f"{json_file}: 'bbox' of {other} of {len(stated)} things disagrees with the PNG, which counts")


def segment_areas(ids: np.ndarray, listed: Sequence[int], png: str | Path) -> np.ndarray:
    """Pixels int64 (n,) of each of the ``listed`` segment ids in the map ``ids`` int32 (H, W), read from ``png``.

    Raises:
        DataError: the map holds an id that is not listed.
    """
    flat = ids.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    values, inverse = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(inverse, weights=np.diff(starts, append=flat.size))
    area_of = dict(zip(values.tolist(), pixels.astype(int).tolist(), strict=True))
    unlisted = sorted(area_of.keys() - {0, *listed})
    if unlisted:
        hint = "" if area_of.keys() & set(listed) else "; none of its ids is listed: are its channels in RGB order?"
        raise DataError(f"{png} holds segment id {unlisted[0]}, which the JSON does not list{hint}")
    return np.array([area_of.get(number, 0) for number in listed], np.int64)


def read_label(dataset: PanopticDataset, photo: LabelledPhoto) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids int32 (H, W) of a photo of ``dataset``, and pixels int64 (n,) of each of its segments.

    Raises:
        DataError: the PNG is missing, broken, of another size than the JSON says, or holds ids that are not listed.
    """
    ids = dataset.read_ids(photo)
    return ids, segment_areas(ids, [segment.id for segment in photo.segments], dataset.png_path(photo))


def check_numbers(key: str, entries: Iterable[Any], dataset: PanopticDataset) -> None:
    """See that ``entries``, the list ``key`` of an ``instances.json``, are numbered as ``dataset`` is.

    A photo ("images") or class ("categories") may have another name there; but not that of one with another id.

    Raises:
        DataError: an id stands twice, or for another photo or class than in ``dataset``.
    """
    of_photos, photos = key == "images", dataset.photos
    things: dict[Any, str] = {category.id: category.name for category in dataset.things}
    stuff = {(category.id, category.name) for category in dataset.stuff}  # may share names with things
    read_name: Callable[..., str] = fields.file_name if of_photos else fields.text
    name_key = "file_name" if of_photos else "name"
    ids = Ids()
    others: dict[str, int | str] = {}
    for position, entry in enumerate(entries):
        fields.told("it", fields.an_object, entry, position, key)
        number = fields.told(f"an entry of {key!r}", fields.identity, entry, "id")
        ids.append(number)
        if entry.get(name_key) is not None:
            name = fields.told(f"id {number!r} of {key!r}", read_name, entry, name_key)
            if of_photos:
                known = number in dataset.place and photos.file_names[dataset.place[number]] == name
            else:
                known = things.get(number) == name or (number, name) in stuff
            if not known:
                others[name] = number
    refuse_duplicates(ids, f"of {key!r}, id")
    numbered: Iterable[tuple[Any, str]] = things.items()
    if of_photos:
        numbered = zip(photos.image_ids, photos.file_names, strict=True)
    for number, name in numbered if others else ():
        if name in others:
            where = f"in {dataset.json_file.name} {number!r}"
            raise DataError(f"{name!r} of {key!r} has the id {others[name]!r}, {where}; both files must number alike")


class StatedMasks:
    """Counts of the masks of an ``instances.json`` whose ``area`` and ``bbox`` are not those of their pixels."""

    def __init__(self) -> None:
        self._other: Counter[str] = Counter()
        self._total = 0

    def add(self, stated: Sequence[Mapping[str, Any]], masks: Sequence[Mapping[str, Any]]) -> None:
        """Compare what entries of the file have ``stated`` with their ``masks``, which know their areas."""
        from pycocotools import mask as coco

        self._total += len(masks)
        pairs = list(zip(stated, masks, strict=True))
        self._other["area"] += sum(_differ(entry.get("area"), [mask["area"]]) for entry, mask in pairs)
        boxed = [(entry["bbox"], mask["segmentation"]) for entry, mask in pairs if entry.get("bbox") is not None]
        boxes = coco.toBbox([code for _, code in boxed]).tolist() if boxed else []
        self._other["bbox"] += sum(_differ(box, measured) for (box, _), measured in zip(boxed, boxes, strict=True))

    def warn(self, json_file: Path) -> None:
        """Log the counts, once for each file."""
        for name, other in self._other.items():
            if other:
                warn_once(
                    f"{json_file}: {name!r} of {other} of {self._total} masks disagrees with their pixels, which count"
                )


def _differ(stated: Any, measured: Sequence[float]) -> bool:
    """Whether ``stated`` is as many numbers as ``measured``, and one of them differs by more than one pixel."""
    try:
        numbers = [float(part) for part in (stated if len(measured) > 1 else [stated])]
    except (TypeError, ValueError, OverflowError):
        return False
    return len(numbers) == len(measured) and any(abs(a - b) > 1 for a, b in zip(numbers, measured, strict=True))
