"""One photo's pictures: read once, drawn at all sizes, written whole, kept next time if nothing changed.

Runs in worker processes: what goes in and comes out is small and pickles.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from u2seg.errors import DataError
from u2seg.fields import inside
from u2seg.files import replacing, write_json
from u2seg.images import read_image
from u2seg.panoptic import LabelledPhoto, PanopticDataset
from u2seg.report.draw import Layer, draw_crop, fit
from u2seg.report.labels import VIEWS, Annotation, Labels

DRAWING = 2
"""Raise it when pictures are drawn differently, so that a gallery does not keep old ones."""
PREDICTED = "predicted"
"""The view that shows another dataset's panoptic labels."""
CROP_SIDE = 176
"""Longest side of a crop in pixels."""


@dataclass(frozen=True)
class Task:
    """What is to be drawn of photo ``number`` of the dataset; crops are positions in ``annotations``."""

    number: int
    photo: LabelledPhoto
    annotations: tuple[Annotation, ...]
    predicted: LabelledPhoto | None = None
    crops: tuple[int, ...] = ()


@dataclass
class Record:
    """What was drawn of one photo, as its JSON keeps it.

    Attributes:
        number: of the photo in the dataset.
        fingerprint: of all that the pictures depend on.
        files: below the gallery.
        views: marks of each view, as lists of the fields of `Mark`.
        crops: position of an annotation, and the file of its crop.
        shares: fraction of the photo that each annotation covers; empty where the label can't be read.
        void: fraction of the photo in no segment; None where the label can't be read.
        problems: what (``photo``, ``size``, ``label`` or `PREDICTED`) and why.
    """

    number: int
    fingerprint: str
    files: list[str] = field(default_factory=list)
    views: dict[str, list[list[Any]]] = field(default_factory=dict)
    crops: list[tuple[int, str]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    void: float | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)


def media_stem(number: int) -> str:
    """Start of the names of a photo's pictures, below the gallery: 500 photos a folder."""
    return f"media/{number // 500:04d}/{number:06d}"


@dataclass(frozen=True)
class Painter:
    """Draws the pictures of a task, unless those of an earlier run still hold.

    The photos that the datasets list are not used. ``thumbnail`` is the longest side of small pictures in pixels.
    """

    output: Path
    dataset: PanopticDataset
    predictions: PanopticDataset | None
    thumbnail: int

    def __call__(self, task: Task) -> Record:
        """Draw ``task``, or return the record of an earlier run that drew the same."""
        notes = self.output / f"{media_stem(task.number)}.json"
        record = Record(task.number, self._fingerprint(task))
        kept = self._read_record(notes)
        if kept is not None and kept.fingerprint == record.fingerprint:
            return kept
        photo = self._draw_photo(task, record)
        for what, draw in (("label", self._draw_labels), (PREDICTED, self._draw_predictions)):
            try:
                draw(task, photo, record)
            except DataError as error:
                record.problems.append((what, str(error)))
        write_json(notes, asdict(record))
        return record

    def _fingerprint(self, task: Task) -> str:
        """A hash of all that the pictures depend on."""
        parts: list[Any] = [DRAWING, self.thumbnail, self.predictions is None, task]
        parts.append(_file_state(self.dataset.photo_path(task.photo)))
        for dataset, photo in ((self.dataset, task.photo), (self.predictions, task.predicted)):
            if dataset is not None and photo is not None:
                used = {s.category_id for s in photo.segments} | {a.category_id for a in task.annotations}
                parts += [_file_state(dataset.png_path(photo)), [c for c in dataset.categories if c.id in used]]
        return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:32]

    def _read_record(self, path: Path) -> Record | None:
        """The record of an earlier run whose pictures are all there, else None."""
        try:
            record = Record(**json.loads(path.read_text(encoding="utf-8")))
            return record if all((self.output / name).is_file() for name in record.files) else None
        except (OSError, ValueError, TypeError):
            return None  # absent or damaged: the photo is drawn again

    def _save(self, record: Record, ending: str, picture: Layer | Image.Image) -> str:
        name = f"{media_stem(record.number)}_{ending}"
        with replacing(self.output / name) as path:
            if isinstance(picture, Layer):
                picture.save(path)
            else:
                picture.save(path, quality=82)
        record.files.append(name)
        return name

    def _draw_photo(self, task: Task, record: Record) -> np.ndarray | None:
        """Write the photo in two sizes; return its pixels uint8 (H, W, 3), or None if it can't be read."""
        path = self.dataset.photo_path(task.photo)
        try:
            inside(self.dataset.image_root, task.photo.file_name)  # a gallery is shown to others
            picture = Image.fromarray(read_image(path))
        except DataError as error:
            record.problems.append(("photo", str(error) if path.exists() else "not found"))
            return None
        size = (task.photo.width, task.photo.height)
        if picture.size != size:
            reason = f"the photo has {picture.width}x{picture.height} pixels, its labels {size[0]}x{size[1]}"
            record.problems.append(("size", reason))
            picture = picture.resize(size)
        photo = np.asarray(picture)
        for kind, longest in (("large", max(3 * self.thumbnail, 640)), ("photo", self.thumbnail)):
            size = fit(*picture.size, min(longest, max(picture.size)))
            picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
            self._save(record, f"{kind}.jpg", picture)
        return photo

    def _draw_labels(self, task: Task, photo: np.ndarray | None, record: Record) -> None:
        """Write the layers, and crops where there is a ``photo`` to cut them from."""
        labels = Labels(self.dataset, task.photo, task.annotations)
        record.shares = [round(float(labels.mask(annotation).mean()), 6) for annotation in task.annotations]
        record.void = round(float((labels.ids == 0).mean()), 6)
        for view in VIEWS:
            self._draw_layer(labels, view, view, record)
        for position in task.crops:
            mask = labels.mask(task.annotations[position])
            if photo is not None and mask.any():
                file = self._save(record, f"c{position}.jpg", draw_crop(photo, mask, CROP_SIDE))
                record.crops.append((position, file))

    def _draw_predictions(self, task: Task, photo: np.ndarray | None, record: Record) -> None:
        if self.predictions is not None:
            if task.predicted is None:
                raise DataError("not in the predictions")
            self._draw_layer(Labels(self.predictions, task.predicted), "panoptic", PREDICTED, record)

    def _draw_layer(self, labels: Labels, view: str, shown_as: str, record: Record) -> None:
        """Write a layer at twice the thumbnail's size, which serves the enlarged view too."""
        height, width = labels.ids.shape
        layer = labels.layer(view, fit(width, height, 2 * self.thumbnail), self.thumbnail)
        self._save(record, f"{shown_as}.png", layer)
        record.views[shown_as] = [list(mark) for mark in layer.marks]


def _file_state(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change of a file, None where there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_size, state.st_mtime_ns
