"""Human panoptic labels of COCO and Cityscapes as dataset directories of this project.

The files stay where they are: the directory gets a ``panoptic.json`` whose categories are numbered things 1..K, stuff
K+1..K+S, and which says where photos and PNGs lie. Only where stuff classes are merged into supercategories (the
paper's 80 + 15) are PNGs written anew, since segments of one photo become one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from u2seg.data.mapper import read_label
from u2seg.data.targets import Segments, segment_rows
from u2seg.errors import DataError, UsageError
from u2seg.panoptic import decode_ids

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def convert_panoptic(
    source: Path,
    panoptic_root: Path,
    image_root: Path,
    output: Path,
    *,
    merge_stuff: bool = False,
    photo_name: Callable[[dict[str, Any]], str] = lambda image: image["file_name"],
    progress: Progress = lambda entries: entries,
) -> None:
    """Write the dataset directory ``output``.

    Args:
        source: a COCO panoptic JSON.
        panoptic_root: its PNGs.
        image_root: its photos.
        output: a directory, made if need be.
        merge_stuff: one stuff class for each supercategory.
        photo_name: path below ``image_root`` of an entry of ``images``.
        progress: wraps the loop over the labels, as tqdm does.

    Raises:
        UsageError: a path does not exist.
        DataError: ``source`` is no panoptic JSON, or a label is damaged.
    """
    for path in (source, panoptic_root, image_root):
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    content = json.loads(source.read_text(encoding="utf-8"))
    try:
        categories, new_ids = number_categories(content["categories"], merge_stuff)
        images = [{**image, "file_name": photo_name(image)} for image in content["images"]]
        annotations = content["annotations"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{source} is no COCO panoptic JSON: it misses {error}") from error
    output.mkdir(parents=True, exist_ok=True)
    info = {**(content.get("info") or {}), "image_root": str(image_root.resolve())}
    if merge_stuff:
        (output / "panoptic").mkdir(exist_ok=True)
        things = {category["id"] for category in categories if category["isthing"]}
        annotations = [_merge(entry, new_ids, things, panoptic_root, output) for entry in progress(annotations)]
    else:
        info["panoptic_root"] = str(panoptic_root.resolve())
        annotations = [{**entry, "segments_info": _renumber(entry, new_ids)} for entry in annotations]
    whole = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    temporary = output / ".panoptic.json.tmp"
    temporary.write_text(json.dumps(whole), encoding="utf-8")
    os.replace(temporary, output / "panoptic.json")


def number_categories(
    categories: Iterable[dict[str, Any]], merge_stuff: bool
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Categories numbered things 1..K, stuff K+1..K+S, each kind in its old order, and old ids to new ones."""
    ordered = sorted(categories, key=lambda category: (not category["isthing"], category["id"]))
    numbered: dict[str, dict[str, Any]] = {}
    new_ids = {}
    for category in ordered:
        merged = merge_stuff and not category["isthing"]
        name = category["supercategory"] if merged else category["name"]
        # a thing and a stuff class may share a name
        key = f"{category['isthing']}/{name}"
        if key not in numbered:
            numbered[key] = {**category, "name": name, "id": len(numbered) + 1}
        new_ids[category["id"]] = numbered[key]["id"]
    return list(numbered.values()), new_ids


def _renumber(entry: dict[str, Any], new_ids: dict[int, int]) -> list[dict[str, Any]]:
    return [{**segment, "category_id": new_ids[segment["category_id"]]} for segment in entry["segments_info"]]


def _merge(
    entry: dict[str, Any], new_ids: dict[int, int], things: set[int], panoptic_root: Path, output: Path
) -> dict[str, Any]:
    """Write the PNG of ``entry`` with one segment for each stuff class, and return its annotation."""
    segments = sorted(_renumber(entry, new_ids), key=lambda segment: segment["id"])
    groups: dict[Any, list[int]] = {}
    for row, segment in enumerate(segments):
        category = segment["category_id"]
        groups.setdefault((row if category in things else -1, category), []).append(row)
    table = np.zeros(len(segments) + 1, np.int64)
    for number, rows in enumerate(groups.values(), start=1):
        table[rows] = number
    ids = decode_ids(read_label(str(panoptic_root / entry["file_name"])))
    columns = Segments.from_info({**segment, "isthing": False} for segment in segments)
    merged = table[segment_rows(ids, columns)]
    merged_segments = [
        {**segments[rows[0]], "id": number, **_measure(merged == number)}
        for number, rows in enumerate(groups.values(), start=1)
    ]
    colours = np.stack([merged & 255, merged >> 8 & 255, merged >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(output / "panoptic" / entry["file_name"])
    return {**entry, "segments_info": [segment for segment in merged_segments if segment["area"]]}


def _measure(mask: np.ndarray) -> dict[str, Any]:
    """Area in pixels and box (x, y, width, height) of ``mask`` bool (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return {"area": 0, "bbox": [0, 0, 0, 0]}
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return {"area": int(mask.sum()), "bbox": box}
