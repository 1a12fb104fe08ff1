"""Whether JSON files and PNGs say the same. Pixels are the label; what a JSON repeats of them is only compared.

Shapes: ``H, W`` image pixels; ``n`` segments or masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from u2seg import fields
from u2seg.errors import DataError
from u2seg.panoptic.dataset import PanopticDataset, SegmentInfo
from u2seg.panoptic.reading import warn_once


def warn_of_areas(json_file: Path, segments: Sequence[SegmentInfo], areas: Sequence[int] | np.ndarray) -> None:
    """Log, once for each file, how many of its ``segments`` have other ``areas`` (n,) in the PNG than it states."""
    stated = np.array([np.nan if s.stated_area is None else s.stated_area for s in segments], np.float64)
    other = int(((stated != areas) & ~np.isnan(stated)).sum())
    empty = int((np.asarray(areas) == 0).sum())
    if other:
        warn_once(f"{json_file}: 'area' of {other} of {len(segments)} segments disagrees with the PNG, which counts")
    if empty:
        warn_once(f"{json_file}: {empty} of {len(segments)} segments have no pixel in the PNG")


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


def check_ids_agree(content: Mapping[str, Any], dataset: PanopticDataset) -> None:
    """See that ``images`` and ``categories`` of an ``instances.json`` number what ``dataset`` numbers alike.

    Either list may be missing, and a photo or class may have another name; but not that of one with another id.

    Raises:
        DataError: an id stands twice, or for another photo or class than in ``dataset``.
    """
    photos = {photo.file_name: photo.image_id for photo in dataset.photos}
    things = {category.name: category.id for category in dataset.things}
    for key, read_name, name_key, id_of in (
        ("images", fields.file_name, "file_name", photos),
        ("categories", fields.text, "name", things),
    ):
        entries = fields.told("it", fields.entries, content, key) if content.get(key) else []
        ids = [fields.told(f"an entry of {key!r}", fields.identity, entry, "id") for entry in entries]
        fields.refuse_duplicates(ids, f"of {key!r}, id")
        for number, entry in zip(ids, entries, strict=True):
            name = fields.told(f"id {number!r} of {key!r}", read_name, entry, name_key) if name_key in entry else ""
            if id_of.get(name, number) != number:
                other = f"in {dataset.json_file.name} {id_of[name]!r}"
                raise DataError(f"{name!r} of {key!r} has the id {number!r}, {other}; both files must number alike")


def warn_of_masks(json_file: Path, stated: Sequence[Mapping[str, Any]], masks: Sequence[Mapping[str, Any]]) -> None:
    """Log, once for each file, how many of its ``masks`` (n) have another area or box than ``stated`` (n) of them."""
    from pycocotools import mask as coco

    if not masks:
        return
    areas = np.array([_numbers(entry.get("area"), 1) for entry in stated])
    boxes = np.array([_numbers(entry.get("bbox"), 4) for entry in stated])
    measured = np.array([[mask["area"]] for mask in masks], np.float64)
    for name, given, true in (
        ("area", areas, measured),
        ("bbox", boxes, coco.toBbox([mask["segmentation"] for mask in masks])),
    ):
        other = int((np.abs(given - true) > 1).any(axis=1).sum())  # NaN, where nothing is stated, is not more than 1
        if other:
            warn_once(
                f"{json_file}: {name!r} of {other} of {len(masks)} masks disagrees with their pixels, which count"
            )


def _numbers(value: Any, count: int) -> list[float]:
    """``value`` as ``count`` numbers, NaN where it is something else."""
    try:
        numbers = [float(part) for part in (value if count > 1 else [value])]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    return numbers if len(numbers) == count else [np.nan] * count
