"""Human panoptic labels of COCO and Cityscapes as dataset directories of this project.

The files stay where they are: the directory gets a ``panoptic.json`` whose categories are numbered things 1..K, stuff
K+1..K+S, and which says where photos and PNGs lie; areas and boxes are measured in the PNGs. Only where stuff classes
are merged into supercategories (the paper's 80 + 15) are PNGs written anew, since segments of one photo become one.

Shapes: ``H, W`` image pixels; ``n`` segments.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from u2seg import panoptic
from u2seg.errors import DataError, UsageError
from u2seg.fields import inside
from u2seg.files import claim_directory, write_png
from u2seg.panoptic.photos import misstated
from u2seg.panoptic.reading import warn_of_statements
from u2seg.panoptic.run_lengths import look_up
from u2seg.runtime import track
from u2seg.structures import STUFF_VOID

logger = logging.getLogger(__name__)


def convert_panoptic(
    source: Path,
    panoptic_root: Path,
    image_root: Path,
    output: Path,
    *,
    merge_stuff: bool = False,
    photo_name: Callable[[panoptic.LabelledPhoto], str] = lambda photo: photo.file_name,
) -> None:
    """Write the dataset directory ``output``.

    Args:
        source: a COCO panoptic JSON.
        panoptic_root: its PNGs.
        image_root: its photos.
        output: a directory that is new, empty, or the output of an earlier conversion.
        merge_stuff: one stuff class for each supercategory.
        photo_name: path below ``image_root`` of a photo.

    Raises:
        UsageError: a path does not exist, or ``output`` holds other files.
        DataError: ``source`` is no panoptic JSON, a label is damaged, or they contradict each other.
    """
    for path in (source, panoptic_root, image_root):
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    dataset = panoptic.read_panoptic(source, panoptic_root, image_root)
    if merge_stuff:
        dataset.check_supercategories(False, "leave --supercategories out")
    root = claim_directory(output, "converted labels")
    roots = {"image_root": str(image_root.resolve()), "panoptic_root": str(panoptic_root.resolve())}
    if merge_stuff:
        roots["panoptic_root"] = "panoptic"
    categories, new_ids = number_categories(dataset.categories, merge_stuff)
    entries, counts = [], np.zeros(3, np.int64)
    with _replacing_folder(root / "panoptic") if merge_stuff else contextlib.nullcontext() as pngs:
        for photo in track(dataset.photos, "convert", len(dataset.photos)):
            ids, areas = dataset.read_label(photo)
            wrong = misstated([segment.stated for segment in photo.segments], areas)
            counts += np.array([len(areas), np.count_nonzero(wrong), np.count_nonzero(areas == 0)])
            visible = [segment for segment, area in zip(photo.segments, areas, strict=True) if area]
            ids, segments = regroup(ids, visible, new_ids, merge_stuff)
            if pngs is not None:
                write_png(inside(pngs, photo.label), panoptic.encode_ids(ids))
            image = {"id": photo.image_id, "file_name": photo_name(photo), "height": photo.height, "width": photo.width}
            entries.append(panoptic.Entry(image, photo.label, segments))
    warn_of_statements(source, *counts.tolist())
    missing = [name for entry in entries if not (image_root / (name := entry.image["file_name"])).is_file()]
    if missing:
        logger.warning("%d of %d photos are not in %s, such as %r", len(missing), len(entries), image_root, missing[0])
    panoptic.write_dataset(root, {**dataset.info, **roots}, categories, lambda: entries, instances=False)


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` that takes its place when the block ends well; where it raises, ``path`` stays."""
    fresh, old = (path.with_name(f".{path.name}.{end}") for end in ("new", "old"))
    for leftover in (fresh, old):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def export_semantic(labels: str | Path, output: str | Path, every_class: bool = False) -> None:
    """Write a PNG of classes for each photo of a dataset, called as the photo.

    Args:
        labels: the dataset's directory.
        output: a directory that is new, empty, or the output of an earlier export.
        every_class: pixels hold category ids, 0 for nothing. Else they hold what Detectron2's "separated" sets do: 0
            for every thing, 1..S for the stuff classes in rising order of their ids, 255 for nothing.

    Raises:
        UsageError: ``output`` holds other files.
        DataError: a label can't be read or holds ids that are not listed, two photos would share a PNG, or a PNG can't
            hold the classes.
    """
    dataset = panoptic.read_panoptic(labels)
    if every_class:
        values, void = {category.id: category.id for category in dataset.categories}, 0
    else:
        values, void = dict.fromkeys((category.id for category in dataset.things), 0), STUFF_VOID
        values |= {category.id: number for number, category in enumerate(dataset.stuff, start=1)}
    dtype = np.min_scalar_type(max(values.values()))
    if dtype.itemsize > 2 or (not every_class and len(dataset.stuff) >= STUFF_VOID):
        raise DataError(f"{dataset.json_file}: class {max(values.values())} is more than a PNG's pixels can hold")
    names = [PurePosixPath(photo.file_name).with_suffix(".png").as_posix() for photo in dataset.photos]
    if len(set(names)) < len(names):
        raise DataError(f"{dataset.json_file}: photos differ in their ending alone, so their PNGs would share a name")
    root = claim_directory(output, "semantic labels")
    for photo, name in zip(track(dataset.photos, "export", len(names)), names, strict=True):
        ids, _ = dataset.read_label(photo)
        meaning = np.array([void, *(values[segment.category_id] for segment in photo.segments)], dtype)
        write_png(inside(root, name), look_up(ids, [segment.id for segment in photo.segments], meaning))
    logger.info("%d PNGs in %s", len(names), root)


def number_categories(
    categories: Iterable[panoptic.Category], merge_stuff: bool
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Categories numbered things 1..K, stuff K+1..K+S, each kind in its old order, and old ids to new ones."""
    numbered: dict[tuple[bool, str], dict[str, Any]] = {}
    new_ids = {}
    for category in sorted(categories, key=lambda category: (not category.isthing, category.id)):
        name = category.supercategory if merge_stuff and not category.isthing else category.name
        key = (category.isthing, name)  # a thing and a stuff class may share a name
        if key not in numbered:
            entry = {"supercategory": category.supercategory, "isthing": int(category.isthing)}
            numbered[key] = {"id": len(numbered) + 1, "name": name, **entry, "color": list(category.color)}
        new_ids[category.id] = numbered[key]["id"]
    return list(numbered.values()), new_ids


def regroup(
    ids: np.ndarray, segments: Sequence[panoptic.SegmentInfo], new_ids: dict[int, int], merge_stuff: bool
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Give a label the new category ids and, if asked to, one segment for each stuff class.

    Args:
        ids: int32 (H, W).
        segments: those that have a pixel, n.
        new_ids: old category ids to new ones.
        merge_stuff: number segments anew, one for each stuff class.

    Returns:
        Segment ids, and ``segments_info`` with areas and boxes in pixels.
    """
    ordered = sorted(segments, key=lambda segment: segment.id)
    groups: dict[tuple[int, int], list[int]] = {}
    for row, segment in enumerate(ordered):
        merged = merge_stuff and not segment.isthing
        groups.setdefault((-1 if merged else row, new_ids[segment.category_id]), []).append(row)
    group_of_segment = np.zeros(len(ordered) + 1, np.int32)
    for number, rows in enumerate(groups.values(), start=1):
        group_of_segment[np.array(rows) + 1] = number
    numbers = look_up(ids, [segment.id for segment in ordered], group_of_segment)
    areas, places = np.bincount(numbers.ravel()), find_objects(numbers)
    entries = []
    for number, ((_, category), rows) in enumerate(groups.items(), start=1):
        first, (y, x) = ordered[rows[0]], places[number - 1]
        entry = {"id": number if merge_stuff else first.id, "category_id": category, "iscrowd": int(first.iscrowd)}
        box = [x.start, y.start, x.stop - x.start, y.stop - y.start]
        entries.append({**entry, "area": int(areas[number]), "bbox": box})
    return numbers if merge_stuff else ids, entries
