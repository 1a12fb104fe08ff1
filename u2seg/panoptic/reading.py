"""The reader of COCO panoptic JSON: whatever it returns is whole, unique and of the right types."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from u2seg import fields
from u2seg.errors import DataError, UsageError
from u2seg.panoptic.codes import LARGEST_ID
from u2seg.panoptic.dataset import Category, PanopticDataset
from u2seg.panoptic.photos import LabelledPhoto, Photos, SegmentInfo, refuse_duplicates, stated_numbers
from u2seg.panoptic.stream import listed, read_members
from u2seg.panoptic.writing import PANOPTIC_JSON
from u2seg.structures import category_color

logger = logging.getLogger(__name__)

LARGEST_CATEGORY = 2**31 - 1
LARGEST_SIDE = 2**20
"""Pixels."""
_OF_IMAGE = ("file_name", "height", "width")


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
    try:
        info, categories, photos, left_out = _read(file)
        photo_folder = _folder(image_root, info, "image_root", ("images", ""), file, photos.file_names[:1])
        png_folder = _folder(panoptic_root, info, "panoptic_root", ("panoptic",), file, photos.labels[:1])
    except DataError as error:
        raise DataError(f"{file} is no COCO panoptic JSON: {error}") from error
    if left_out:
        of_all = f"{left_out} of {left_out + len(photos)}"
        warn_once(f"{file}: {of_all} images have no annotation and are left out")
    return PanopticDataset(file, photo_folder, png_folder, categories, photos, info)


def _read(file: Path) -> tuple[Mapping[str, Any], tuple[Category, ...], Photos, int]:
    """Its ``info``, categories and photos, and how many images have no annotation.

    Annotations are joined as they come; where images or categories stand behind them, the file is read once more.
    """
    content: dict[str, Any] = {"info": {}}
    for key, value in read_members(file, ("images", "annotations")):
        if key == "info":
            if value and not isinstance(value, dict):
                raise DataError(f"its 'info' is a {type(value).__name__}, not an object")
            content[key] = value or {}
        elif key == "categories":
            content[key] = _categories(fields.told("it", fields.entries, {key: value}, key))
        elif key == "images":
            content[key] = _images(listed(key, value))
        elif key == "annotations":
            content[key] = annotations = listed(key, value)
            if "images" in content and "categories" in content:
                content[key] = _photos(annotations, content["images"], content["categories"])
        if key in ("images", "categories") and "annotations" in content:
            content["annotations"] = None  # of earlier images or categories, if of any
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise DataError(f"it has no list {key!r}")
    images, categories, photos = (content[key] for key in ("images", "categories", "annotations"))
    if not isinstance(photos, Photos):
        for key, value in read_members(file, ("images", "annotations")):
            if key == "annotations":
                photos = _photos(listed(key, value), images, categories)
    return content["info"], categories, photos, sum(image is not None for image in images.values())


@cache
def warn_once(message: str) -> None:
    """Log ``message``, which several readers of one file would repeat, once in this process."""
    logger.warning("%s", message)


def warn_of_statements(json_file: Path, total: int, misstated: int, empty: int = 0, what: str = "segments") -> None:
    """Log, once for each file, how many areas and boxes it states wrongly, and of what there is no pixel."""
    if misstated:
        of_all = f"{misstated} of {total} {what}"
        warn_once(f"{json_file}: 'area' or 'bbox' of {of_all} disagrees with the pixels, which count")
    if empty:
        warn_once(f"{json_file}: {empty} of {total} {what} have no pixel in the PNG")


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


def _images(entries: Iterator[dict[str, Any]]) -> dict[int | str, tuple[Any, ...] | None]:
    """File name, height and width of each image, unchecked, by its id."""
    images: dict[int | str, tuple[Any, ...] | None] = {}
    for position, entry in enumerate(entries):
        key = fields.told(f"entry {position} of 'images'", fields.identity, entry, "id")
        if key in images:
            raise DataError(f"image id {key!r} is given twice")
        images[key] = tuple(entry.get(name) for name in _OF_IMAGE)
    return images


def _photos(
    annotations: Iterator[Any], images: dict[int | str, tuple[Any, ...] | None], categories: Sequence[Category]
) -> Photos:
    """Images and annotations, joined by the image's id; what ``images`` says of them is gone afterwards."""
    photos = Photos(_joined(annotations, images, {category.id: category.isthing for category in categories}))
    refuse_duplicates(photos.file_names, "the photo")
    refuse_duplicates(photos.labels, "the label")
    return photos


def _joined(
    annotations: Iterator[Any], images: dict[int | str, tuple[Any, ...] | None], isthing: Mapping[int, bool]
) -> Iterator[LabelledPhoto]:
    for position, annotation in enumerate(annotations):
        if "segments_info" not in annotation:
            raise DataError("its annotations have no 'segments_info'")
        key = fields.told(f"entry {position} of 'annotations'", fields.identity, annotation, "image_id")
        if key not in images:
            raise DataError(f"the annotation of image id {key!r} has no entry in 'images'")
        image, images[key] = images[key], None
        if image is None:
            raise DataError(f"two annotations of one photo: image id {key!r} is given twice")
        told = {name: value for name, value in zip(_OF_IMAGE, image, strict=True) if value is not None}
        yield _photo(key, told, annotation, isthing)


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
    score = fields.number(entry, "score", 1.0) if "score" in entry else 1.0
    return SegmentInfo(number, category, isthing[category], crowd, score, stated_numbers(entry))
