"""The reader of COCO panoptic JSON: whatever it returns is whole, unique and of the right types."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from u2seg import fields
from u2seg.errors import DataError, UsageError
from u2seg.panoptic.codes import LARGEST_ID
from u2seg.panoptic.dataset import Category, LabelledPhoto, PanopticDataset, SegmentInfo
from u2seg.panoptic.writing import PANOPTIC_JSON
from u2seg.structures import category_color

logger = logging.getLogger(__name__)

LARGEST_CATEGORY = 2**31 - 1
LARGEST_SIDE = 2**20
"""Pixels."""


def read_panoptic(
    source: str | Path, panoptic_root: str | Path | None = None, image_root: str | Path | None = None
) -> PanopticDataset:
    """Read a COCO panoptic dataset.

    Args:
        source: its directory, or its JSON file.
        panoptic_root: folder of the PNGs, if other than the file says.
        image_root: folder of the photos, if other than the file says.

    Raises:
        UsageError: there is no such dataset.
        DataError: the file is no COCO panoptic JSON, or contradicts itself.
    """
    file = Path(source).expanduser()
    if file.is_dir():
        if not (file / PANOPTIC_JSON).is_file():
            raise UsageError(
                f"dataset directory {str(file)!r} holds no {PANOPTIC_JSON}; tools/generate_pseudo.py makes one"
            )
        file = file / PANOPTIC_JSON
    content = fields.read_json_object(file)
    try:
        info = content.get("info") or {}
        if not isinstance(info, dict):
            raise DataError(f"its 'info' is a {type(info).__name__}, not an object")
        images, annotations, entries = (
            fields.told("it", fields.entries, content, key) for key in ("images", "annotations", "categories")
        )
        categories = _categories(entries)
        photos = _photos(images, annotations, {category.id: category.isthing for category in categories}, file)
        photo_folder = _folder(image_root, info, "image_root", ("images", ""), file, [p.file_name for p in photos])
        png_folder = _folder(panoptic_root, info, "panoptic_root", ("panoptic",), file, [p.label for p in photos])
    except DataError as error:
        raise DataError(f"{file} is no COCO panoptic JSON: {error}") from error
    return PanopticDataset(file, photo_folder, png_folder, categories, photos, info)


@cache
def warn_once(message: str) -> None:
    """Log ``message``, which several readers of one file would repeat, once in this process."""
    logger.warning("%s", message)


def _folder(
    choice: str | Path | None,
    info: Mapping[str, Any],
    key: str,
    places: Sequence[str],
    file: Path,
    names: Sequence[str],
) -> Path:
    """The folder of the files with ``names``: ``choice``, else what ``info`` says, else one of the usual ``places``."""
    if choice:
        return Path(choice).expanduser()
    if info.get(key):
        return file.parent / Path(fields.told("its 'info'", fields.file_name, info, key)).expanduser()
    usual = [file.parent / place for place in (*places, file.stem)]
    return next((folder for folder in usual if names and (folder / names[0]).is_file()), usual[0])


def _categories(entries: Sequence[Mapping[str, Any]]) -> tuple[Category, ...]:
    categories = [
        fields.told(f"category {str(entry.get('name', entry.get('id')))[:60]!r}", _category, entry) for entry in entries
    ]
    fields.refuse_duplicates((category.id for category in categories), "category id")
    for isthing, kind in ((True, "thing"), (False, "stuff")):
        names = (category.name for category in categories if category.isthing == isthing)
        fields.refuse_duplicates(names, f"the {kind} category")
    return tuple(sorted(categories, key=lambda category: category.id))


def _category(entry: Mapping[str, Any]) -> Category:
    number = fields.whole(entry, "id", 0, LARGEST_CATEGORY)
    name, supercategory = fields.text(entry, "name", f"category {number}"), fields.text(entry, "supercategory", "")
    color = entry.get("color") or category_color(number)
    if not isinstance(color, (list, tuple)) or len(color) != 3:
        raise DataError(f"has the 'color' {str(color)[:60]!r}, not three numbers from 0 to 255")
    red, green, blue = (fields.whole({"color": part}, "color", 0, 255) for part in color)
    return Category(number, name, supercategory, fields.flag(entry, "isthing"), (red, green, blue))


def _photos(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    isthing: Mapping[int, bool],
    file: Path,
) -> tuple[LabelledPhoto, ...]:
    """Images and annotations, joined by the image's id."""
    if not all("segments_info" in annotation for annotation in annotations):
        raise DataError("its annotations have no 'segments_info'")
    keys = _identities(images, "id", "images")
    fields.refuse_duplicates(keys, "image id")
    image_of = dict(zip(keys, images, strict=True))
    labelled = _identities(annotations, "image_id", "annotations")
    photos = []
    for key, annotation in zip(labelled, annotations, strict=True):
        if key not in image_of:
            raise DataError(f"the annotation of image id {key!r} has no entry in 'images'")
        photos.append(_photo(key, image_of[key], annotation, isthing))
    fields.refuse_duplicates(labelled, "two annotations of one photo: image id")
    numbered = [annotation for annotation in annotations if annotation.get("id") is not None]
    fields.refuse_duplicates(_identities(numbered, "id", "annotations"), "annotation id")
    fields.refuse_duplicates((photo.file_name for photo in photos), "the photo")
    fields.refuse_duplicates((photo.label for photo in photos), "the label")
    if len(photos) < len(images):
        left_out = len(images) - len(photos)
        warn_once(f"{file}: {left_out} of {len(images)} images have no annotation and are left out")
    return tuple(photos)


def _identities(entries: Sequence[Mapping[str, Any]], key: str, kind: str) -> list[int | str]:
    return [
        fields.told(f"entry {position} of {kind!r}", fields.identity, entry, key)
        for position, entry in enumerate(entries)
    ]


def _photo(
    key: int | str, image: Mapping[str, Any], annotation: Mapping[str, Any], isthing: Mapping[int, bool]
) -> LabelledPhoto:
    subject = f"image id {key!r}"
    name, label = (fields.told(subject, fields.file_name, entry) for entry in (image, annotation))
    if label.startswith("/") or ".." in label or ":" in label:
        fields.told(f"{subject}: the label", fields.inside, Path("panoptic"), label)
    height, width = (fields.told(subject, fields.whole, image, side, 1, LARGEST_SIDE) for side in ("height", "width"))
    entries = fields.told(subject, fields.entries, annotation, "segments_info")
    segments = []
    for entry in entries:
        try:
            segments.append(_segment(entry, isthing))
        except DataError as error:
            raise DataError(f"segment {str(entry.get('id'))[:20]} of {name} {error}") from error
    fields.refuse_duplicates((segment.id for segment in segments), "segment id", f" of {name}")
    return LabelledPhoto(key, name, height, width, label, tuple(segments))


def _segment(entry: Mapping[str, Any], isthing: Mapping[int, bool]) -> SegmentInfo:
    number = fields.whole(entry, "id", 1, LARGEST_ID)
    category = fields.whole(entry, "category_id", 0, LARGEST_CATEGORY)
    if category not in isthing:
        raise DataError(f"has category_id {category}, not in 'categories'")
    if "isthing" in entry and fields.flag(entry, "isthing", isthing[category]) != isthing[category]:
        raise DataError(f"and its category {category} disagree on 'isthing'")
    crowd = "iscrowd" in entry and fields.flag(entry, "iscrowd", False)
    score, area = fields.number(entry, "score", 1.0) if "score" in entry else 1.0, entry.get("area")
    if isinstance(area, str):  # a redundant field is no reason to refuse a file
        area = float(area) if area.strip().replace(".", "", 1).isdecimal() else None
    stated = float(area) if isinstance(area, (int, float)) and abs(area) < 2**53 else None
    return SegmentInfo(number, category, isthing[category], crowd, score, stated)
