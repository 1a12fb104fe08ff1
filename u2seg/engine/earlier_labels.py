"""The labels that a model was trained on, read back: what a round of self-training adds to.

Shapes: ``H, W`` pixels of a photo; ``h, w`` pixels at which it is labelled; ``N`` things; K thing and S stuff classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.files import file_sha256
from u2seg.images import Photo, PhotoSet, enlarge
from u2seg.panoptic import (
    INSTANCES_JSON,
    PANOPTIC_JSON,
    RUN_JSON,
    LabelledPhoto,
    PanopticDataset,
    decode_mask,
    read_ids,
    read_instances,
    read_json_object,
    read_panoptic,
)
from u2seg.structures import STUFF_VOID, LabelSpace, MaskSet

KEY = "U2SEG.SELF_TRAINING.LABELS"


@dataclass(frozen=True)
class PhotoLabel:
    """The label of one photo; small, since it travels to workers."""

    png: Path
    photo: LabelledPhoto
    painted: tuple[Mapping[str, Any], ...] | None
    """Annotations of the things that the PNG shows, whole; None where only the PNG tells."""
    space: LabelSpace

    def read(self, height: int, width: int) -> tuple[MaskSet, np.ndarray, np.ndarray]:
        """The label at ``height`` x ``width`` = h x w.

        Returns:
            Things with masks bool (N, h, w); their clusters int64 (N,); the stuff map uint8 (h, w), 255 for none.

        Raises:
            DataError: the PNG is missing, damaged or of another size than the photo.
        """
        ids = read_ids(self.png)
        if ids.shape != (self.photo.height, self.photo.width):
            raise DataError(
                f"label {self.png} has {ids.shape[1]} x {ids.shape[0]} pixels (width x height), "
                f"the photo {self.photo.width} x {self.photo.height}"
            )
        ids = enlarge(ids, height, width)
        stuff = np.full(ids.shape, STUFF_VOID, np.uint8)
        masks, scores, clusters = [], [], []
        for segment in self.photo.segments:
            if not segment.isthing:
                stuff[ids == segment.id] = segment.category_id - self.space.num_things - 1
            elif self.painted is None:
                masks.append(ids == segment.id)
                scores.append(segment.score)
                clusters.append(segment.category_id - 1)
        for thing in self.painted or ():
            masks.append(enlarge(decode_mask(thing["segmentation"]), height, width))
            scores.append(thing["score"])
            clusters.append(thing["category_id"] - 1)
        stack = np.stack(masks) if masks else np.zeros((0, height, width), bool)
        kept = stack.any(axis=(1, 2))  # at fewer pixels than the photo's, a small thing may have none
        return (
            MaskSet(stack[kept], np.array(scores, np.float32)[kept]),
            np.array(clusters, np.int64)[kept],
            stuff,
        )


@dataclass(frozen=True)
class EarlierLabels:
    """A dataset of tools/generate_pseudo.py."""

    dataset: PanopticDataset
    space: LabelSpace
    labels: Mapping[int, PhotoLabel]
    """By the photo's id."""
    round: int
    """0 for the labels of the factory, t for those of the t-th round of self-training."""
    caveats: tuple[str, ...]
    """What its run.json says against calling it unsupervised."""
    sha256: Mapping[str, str]
    """Of its JSON files that say what the labels are."""

    def photo_set(self, image_root: str | None = None) -> PhotoSet:
        """Every photo that has a label; ``image_root`` says where they lie now, if they have moved."""
        base = (Path(image_root).expanduser() if image_root else self.dataset.image_root).absolute()
        photos = [
            Photo(int(photo.image_id), photo.file_name, str(base / photo.file_name), photo.label)
            for photo in self.dataset.photos
        ]
        return PhotoSet(base, tuple(sorted(photos, key=lambda photo: photo.id)), numbered=True)

    def choose(self, photos: PhotoSet) -> PhotoSet:
        """``photos`` with the ids and label names that they have here.

        Raises:
            UsageError: a photo is not among these.
        """
        known = {photo.name: photo for photo in self.photo_set().photos}
        strange = [photo.name for photo in photos.photos if photo.name not in known]
        if strange:
            raise UsageError(
                f"{len(strange)} of the {len(photos)} photos are not in {KEY} {str(self.dataset.root)!r}, such as "
                f"{strange[0]!r}; leave --images out to use its photos, or give --image-root the folder that "
                f"names like {next(iter(known))!r} are relative to"
            )
        chosen = [replace(known[photo.name], path=photo.path) for photo in photos.photos]
        return replace(photos, photos=tuple(sorted(chosen, key=lambda photo: photo.id)), numbered=True)


def read_earlier_labels(directory: str) -> EarlierLabels:
    """Read a dataset of tools/generate_pseudo.py; a second call does not read it again unless it has changed.

    Raises:
        UsageError: there is none.
        DataError: it is damaged, or of classes that this package does not number.
    """
    if not directory:
        raise UsageError(f"{KEY} is empty: name the directory of the labels that the model was trained on")
    root = Path(directory).expanduser().absolute()
    if not (root / PANOPTIC_JSON).is_file():
        problem = f"holds no {PANOPTIC_JSON}" if root.is_dir() else "does not exist"
        raise UsageError(f"{KEY} {directory!r} {problem}; tools/generate_pseudo.py makes one")
    state = (root / PANOPTIC_JSON).stat()
    return _read(root, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read(root: Path, changed: int, size: int) -> EarlierLabels:
    """The dataset in ``root``; the other arguments tell one version of its files from the next."""
    dataset = read_panoptic(root)
    if not dataset.photos:
        raise DataError(f"{dataset.json_file} lists no photo that has a label")
    space, painted = dataset.label_space(), _painted(dataset)
    run = read_json_object(root / RUN_JSON) if (root / RUN_JSON).is_file() else {}
    labels = {
        photo.image_id: PhotoLabel(
            dataset.png_path(photo), photo, None if painted is None else painted[photo.image_id], space
        )
        for photo in dataset.photos
    }
    files = [path for path in (root / PANOPTIC_JSON, root / INSTANCES_JSON) if path.is_file()]
    number = int((run.get("self_training") or {}).get("round", 0))
    sha256 = {path.name: file_sha256(path) for path in files}
    return EarlierLabels(dataset, space, labels, number, tuple(run.get("caveats") or ()), sha256)


def _painted(dataset: PanopticDataset) -> dict[Any, tuple[Mapping[str, Any], ...]] | None:
    """Annotations of the things that the PNGs show, by photo; None where no file says which are painted."""
    instances = read_instances(dataset)
    if instances is None or any(entry["segment_id"] is None for entries in instances.values() for entry in entries):
        return None
    return {photo: tuple(entry for entry in entries if entry["segment_id"]) for photo, entries in instances.items()}
