"""Panoptic datasets as they lie on disk: a ``panoptic.json`` and a folder of PNGs, read once and checked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from u2seg.errors import DataError, UsageError


@dataclass(frozen=True)
class Category:
    """One entry of ``categories``: a human class, or a cluster."""

    id: int
    name: str
    supercategory: str
    """Empty where the file gives none."""
    isthing: bool


@dataclass(frozen=True)
class LabelledImage:
    """One photo's label: where its PNG lies, and what its segments are."""

    stem: str
    """File name of the photo without folder and ending."""
    png: Path
    width: int
    """pixels"""
    height: int
    """pixels"""
    image_id: Any
    """As in the file, mostly a number."""
    segments: tuple[Mapping[str, Any], ...]
    """``segments_info``, in the file's order."""


@dataclass(frozen=True)
class PanopticSet:
    """A labelled set: its categories and its images by stem."""

    name: str
    """How messages call it."""
    categories: tuple[Category, ...]
    """In rising order of id."""
    labels: tuple[LabelledImage, ...]
    """All images, in the file's order."""
    images: Mapping[str, LabelledImage]
    """By stem; of several with one stem, the last."""
    ambiguous: Mapping[str, tuple[str, str]]
    """Stems that two photos share, with the two file names; such photos can't be found by name."""

    def clusters(self, isthing: bool) -> list[int]:
        """Category ids of the things, or of the stuff, in rising order."""
        return [category.id for category in self.categories if category.isthing == isthing]


def read_panoptic(json_file: str | Path, png_folder: str | Path) -> PanopticSet:
    """Read a COCO panoptic dataset.

    Args:
        json_file: with ``images``, ``annotations`` and ``categories``.
        png_folder: where the ``file_name`` of each annotation is looked for.

    Raises:
        UsageError: the file or the folder does not exist.
        DataError: the file is no COCO panoptic JSON, or contradicts itself.
    """
    json_file, png_folder = Path(json_file), Path(png_folder)
    if not png_folder.is_dir():
        raise UsageError(f"there is no folder {png_folder} with the panoptic PNGs of {json_file}")
    content = read_json(json_file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{json_file} is no COCO panoptic JSON: it has no list {key!r}")
    try:
        categories = _categories(content["categories"], json_file)
        return _index(content, categories, json_file, png_folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{json_file} is no COCO panoptic JSON: {type(error).__name__} {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: there is no such file.
        DataError: it holds no JSON.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def _categories(entries: list[dict[str, Any]], source: Path) -> tuple[Category, ...]:
    for entry in entries:
        if "isthing" not in entry:
            raise DataError(f"{source} is no panoptic JSON: category {entry.get('name')!r} has no 'isthing'")
    found = sorted(
        (
            Category(int(e["id"]), str(e.get("name", e["id"])), str(e.get("supercategory") or ""), bool(e["isthing"]))
            for e in entries
        ),
        key=lambda category: category.id,
    )
    for first, second in itertools.pairwise(found):
        if first.id == second.id:
            raise DataError(f"{source}: category id {first.id} is given twice")
    return tuple(found)


def _index(content: dict[str, Any], categories: tuple[Category, ...], source: Path, folder: Path) -> PanopticSet:
    kinds = {category.id: category.isthing for category in categories}
    photos = {image["id"]: image for image in content["images"]}
    labels: list[LabelledImage] = []
    images: dict[str, LabelledImage] = {}
    names: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, str]] = {}
    for annotation in content["annotations"]:
        if "segments_info" not in annotation:
            raise DataError(f"{source} is no panoptic JSON: its annotations have no 'segments_info'")
        photo = photos.get(annotation["image_id"])
        if photo is None:
            raise DataError(f"{source}: the annotation of image id {annotation['image_id']} has no entry in 'images'")
        for segment in annotation["segments_info"]:
            _check_segment(segment, kinds, source, photo["file_name"])
        stem = PurePosixPath(photo["file_name"].replace("\\", "/")).stem
        if stem in names:
            ambiguous[stem] = (names[stem], photo["file_name"])
        names[stem] = photo["file_name"]
        label = LabelledImage(
            stem=stem,
            png=folder / annotation["file_name"],
            width=int(photo["width"]),
            height=int(photo["height"]),
            image_id=photo["id"],
            segments=tuple(annotation["segments_info"]),
        )
        images[stem] = label
        labels.append(label)
    return PanopticSet(str(source), categories, tuple(labels), images, ambiguous)


def _check_segment(segment: Mapping[str, Any], kinds: Mapping[int, bool], source: Path, photo: str) -> None:
    category = segment["category_id"]
    if category not in kinds:
        raise DataError(f"{source}: segment {segment['id']} of {photo} has category_id {category}, not in 'categories'")
    if bool(segment.get("isthing", kinds[category])) != kinds[category]:
        raise DataError(
            f"{source}: segment {segment['id']} of {photo} and its category {category} disagree on 'isthing'"
        )


@dataclass(frozen=True)
class Pairing:
    """The photos that two sets share, and those that only one has."""

    pairs: tuple[tuple[LabelledImage, LabelledImage], ...]
    """Ground truth and pseudo label of each photo, in order of stem."""
    only_gt: tuple[str, ...]
    only_pseudo: tuple[str, ...]


def pair_images(gt: PanopticSet, pseudo: PanopticSet) -> Pairing:
    """Find the photos of ``gt`` in ``pseudo`` by file name without folder and ending.

    Raises:
        DataError: no photo is in both, or a name that is in both stands for two photos of one set.
    """
    shared = sorted(gt.images.keys() & pseudo.images.keys())
    for each in (gt, pseudo):
        doubtful = [stem for stem in shared if stem in each.ambiguous]
        if doubtful:
            first, second = each.ambiguous[doubtful[0]]
            raise DataError(
                f"{len(doubtful)} photos can't be told apart by file name in {each.name}: {first!r} and {second!r}"
            )
    if not shared:
        examples = [next(iter(sorted(each.images)), "nothing") for each in (gt, pseudo)]
        raise DataError(
            f"no photo of {gt.name} has a label in {pseudo.name} by file name "
            f"({len(gt.images)} photos such as {examples[0]!r}, {len(pseudo.images)} such as {examples[1]!r})"
        )
    return Pairing(
        pairs=tuple((gt.images[stem], pseudo.images[stem]) for stem in shared),
        only_gt=tuple(sorted(gt.images.keys() - pseudo.images.keys())),
        only_pseudo=tuple(sorted(pseudo.images.keys() - gt.images.keys())),
    )
