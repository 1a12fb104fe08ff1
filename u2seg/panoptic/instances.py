"""Masks of things as run-length codes: ``instances.json``, and one mask at a time.

Shapes: ``H, W`` image pixels; ``n`` runs of a code, zeros first, down the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from u2seg import fields
from u2seg.errors import DataError
from u2seg.panoptic.agreement import check_ids_agree, warn_of_masks
from u2seg.panoptic.dataset import LabelledPhoto, PanopticDataset
from u2seg.panoptic.writing import INSTANCES_JSON, PANOPTIC_JSON


def read_instances(dataset: PanopticDataset) -> dict[Any, list[dict[str, Any]]] | None:
    """Annotations of the ``instances.json`` beside ``dataset``, by image id; None where there is no such file.

    Each has ``id``, ``category_id`` (a thing's), ``segmentation`` (compressed run-length code
    ``{"size": [H, W], "counts": str}`` that covers its photo), ``area`` (its pixels), ``iscrowd``, ``score`` and
    ``segment_id``: the segment of the panoptic label that shows it, 0 for none, or None where the file does not say.

    Raises:
        DataError: the file is damaged, or names photos or categories that ``dataset`` does not have.
    """
    file = dataset.root / INSTANCES_JSON
    if not file.is_file():
        return None
    content = fields.read_json_object(file)
    things = {category.id for category in dataset.things}
    photos = {photo.image_id: photo for photo in dataset.photos}
    instances: dict[Any, list[dict[str, Any]]] = {key: [] for key in photos}
    try:
        check_ids_agree(content, dataset)
        entries = fields.told("it", fields.entries, content, "annotations")
        numbered = [entry for entry in entries if entry.get("id") is not None]
        fields.refuse_duplicates(
            [fields.told("an annotation", fields.identity, entry, "id") for entry in numbered], "annotation id"
        )
        masks = []
        for entry in entries:
            key = fields.told(f"annotation {entry.get('id')}", fields.identity, entry, "image_id")
            if key not in photos:
                raise DataError(f"image id {key!r} has no label in {PANOPTIC_JSON}")
            subject = f"annotation {entry.get('id')} of {photos[key].file_name!r}"
            masks.append(fields.told(subject, _instance, entry, photos[key], things))
            instances[key].append(masks[-1])
        warn_of_masks(file, entries, masks)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return instances


def _instance(entry: Mapping[str, Any], photo: LabelledPhoto, things: set[int]) -> dict[str, Any]:
    """``entry`` with fields of the right types, its code compressed; the error is the end of a sentence."""
    category = fields.whole(entry, "category_id")
    score, segment = fields.number(entry, "score", 1.0), fields.whole(entry, "segment_id", default=None)
    if category not in things:
        raise DataError(f"has category_id {category}, which is no thing")
    code: Any = entry.get("segmentation")
    runs = count_runs(code)
    height, width = code["size"]
    if (height, width) != (photo.height, photo.width):
        raise DataError(f"is {width} x {height} pixels (width x height), its photo {photo.width} x {photo.height}")
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
