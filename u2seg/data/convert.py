"""Human panoptic labels of COCO and Cityscapes as dataset directories of this project.

The files stay where they are: the directory gets a ``panoptic.json`` whose categories are numbered things 1..K, stuff
K+1..K+S, and which says where photos and PNGs lie. Only where stuff classes are merged into supercategories (the
paper's 80 + 15) are PNGs written anew, since segments of one photo become one.

Shapes: ``H, W`` image pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.data.targets import number_segments
from u2seg.errors import DataError, UsageError
from u2seg.files import claim_directory, write_png
from u2seg.panoptic import Entry, encode_ids, instance_entry, read_ids, read_json_object, write_dataset

Record = dict[str, Any]
Progress = Callable[[Iterable[Any]], Iterable[Any]]


def convert_panoptic(
    source: Path,
    panoptic_root: Path,
    image_root: Path,
    output: Path,
    *,
    merge_stuff: bool = False,
    photo_name: Callable[[Record], str] = lambda image: image["file_name"],
    progress: Progress = lambda entries: entries,
) -> None:
    """Write the dataset directory ``output``.

    Args:
        source: a COCO panoptic JSON.
        panoptic_root: its PNGs.
        image_root: its photos.
        output: a directory that is new, empty, or the output of an earlier conversion.
        merge_stuff: one stuff class for each supercategory.
        photo_name: path below ``image_root`` of an entry of ``images``.
        progress: wraps the loop over the labels, as tqdm does.

    Raises:
        UsageError: a path does not exist, or ``output`` holds other files.
        DataError: ``source`` is no panoptic JSON, or a label is damaged.
    """
    for path in (source, panoptic_root, image_root):
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    content = read_json_object(source)
    root = claim_directory(output, "converted labels")
    info = {**(content.get("info") or {}), "image_root": str(image_root.resolve())}
    if not merge_stuff:
        info["panoptic_root"] = str(panoptic_root.resolve())
    try:
        categories, new_ids = number_categories(content["categories"], merge_stuff)
        images = {image["id"]: {**image, "file_name": photo_name(image)} for image in content["images"]}
        things = {category["id"] for category in categories if category["isthing"]}
        entries = []
        for annotation in progress(content["annotations"]):
            name, segments = annotation["file_name"], _renumber(annotation["segments_info"], new_ids)
            if merge_stuff:
                merged, segments = _merge(read_ids(panoptic_root / name), segments, things)
                write_png(root / "panoptic" / name, encode_ids(merged))
            entries.append(Entry(images[annotation["image_id"]], name, segments))
    except (KeyError, TypeError) as error:
        raise DataError(f"{source} is no COCO panoptic JSON: it misses {error}") from error
    write_dataset(root, info, categories, lambda: entries, instances=False)


def number_categories(categories: Iterable[Record], merge_stuff: bool) -> tuple[list[Record], dict[int, int]]:
    """Categories numbered things 1..K, stuff K+1..K+S, each kind in its old order, and old ids to new ones."""
    ordered = sorted(categories, key=lambda category: (not category["isthing"], category["id"]))
    numbered: dict[tuple[Any, str], Record] = {}
    new_ids = {}
    for category in ordered:
        merged = merge_stuff and not category["isthing"]
        name = category["supercategory"] if merged else category["name"]
        # a thing and a stuff class may share a name
        key = (category["isthing"], name)
        if key not in numbered:
            numbered[key] = {**category, "name": name, "id": len(numbered) + 1}
        new_ids[category["id"]] = numbered[key]["id"]
    return list(numbered.values()), new_ids


def _renumber(segments: list[Record], new_ids: dict[int, int]) -> list[Record]:
    return [{**segment, "category_id": new_ids[segment["category_id"]]} for segment in segments]


def _merge(ids: np.ndarray, segments: list[Record], things: set[int]) -> tuple[np.ndarray, list[Record]]:
    """Segment ids int64 (H, W) with one segment for each stuff class, and its segments, from ``ids`` int32 (H, W)."""
    segments = sorted(segments, key=lambda segment: segment["id"])
    groups: dict[tuple[int, int], list[int]] = {}
    for row, segment in enumerate(segments):
        category = segment["category_id"]
        groups.setdefault((row if category in things else -1, category), []).append(row)
    group_of_segment = np.zeros(len(segments) + 1, np.int64)
    for number, rows in enumerate(groups.values(), start=1):
        group_of_segment[np.array(rows) + 1] = number
    merged = group_of_segment[number_segments(ids, [{**segment, "isthing": False} for segment in segments])[0]]
    merged_segments = []
    for number, rows in enumerate(groups.values(), start=1):
        first = segments[rows[0]]
        measured = instance_entry(merged == number, first["category_id"], score=1.0)
        if measured is not None:
            merged_segments.append({**first, "id": number, "area": measured["area"], "bbox": measured["bbox"]})
    return merged, merged_segments
