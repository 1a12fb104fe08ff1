"""One photo's pictures: read once, drawn at all sizes, written whole, kept next time if nothing changed.

Runs in worker processes: what goes in and comes out is small and pickles.

Shapes: ``H, W`` photo pixels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from u2seg.errors import DataError
from u2seg.fields import inside
from u2seg.files import file_state, replacing, write_json
from u2seg.images import enlarge, read_image
from u2seg.panoptic import LabelledPhoto, PanopticDataset
from u2seg.report.draw import DIMMED, HATCHED, Region, draw_crop, draw_layer, fit
from u2seg.report.labels import Annotation

DRAWING = 2
"""Raise it when pictures are drawn differently, so that a gallery does not keep old ones."""
VIEWS = ("things", "stuff", "panoptic")
PREDICTED = "predicted"
"""The view that shows another dataset's panoptic labels."""
THUMBNAIL, LARGE, CROP_SIDE = 320, 960, 176
"""Longest sides in pixels of a photo's two sizes, and of a crop."""


Masked = tuple[Annotation, np.ndarray]
"""What is shown, and its mask bool (H, W)."""


class Task(NamedTuple):
    """What is to be drawn of photo ``number`` of the dataset; crops are positions in ``annotations``."""

    number: int
    photo: LabelledPhoto
    annotations: tuple[Annotation, ...]
    predicted: LabelledPhoto | None = None
    crops: tuple[int, ...] = ()


@dataclass
class Record:
    """What was drawn of one photo, as its JSON keeps it."""

    number: int  # of the photo in the dataset
    fingerprint: str  # of all that the pictures depend on
    files: list[str] = field(default_factory=list)  # below the gallery
    views: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Marks of each view, as lists of the fields of `Mark`."""
    masks: list[tuple[int, float, float | None]] = field(default_factory=list)
    """Class and score of each annotation, and the fraction of the photo that it covers, if the label can be read."""
    crops: list[tuple[int, str]] = field(default_factory=list)  # position in ``masks``, and the file of a crop
    void: float | None = None  # fraction of the photo in no segment; None where the label can't be read
    problems: list[tuple[str, str]] = field(default_factory=list)
    """What (``photo``, ``size``, ``label`` or `PREDICTED`) and why."""


def media_stem(number: int) -> str:
    """Start of the names of a photo's pictures, below the gallery: 500 photos a folder."""
    return f"media/{number // 500:04d}/{number:06d}"


@dataclass(frozen=True)
class Painter:
    """Draws the pictures of a task, unless those of an earlier run still hold; uses no photo that the datasets list."""

    output: Path
    dataset: PanopticDataset
    predictions: PanopticDataset | None

    def __call__(self, task: Task) -> Record:
        """Draw ``task``, or return the record of an earlier run that drew the same."""
        path = self.output / f"{media_stem(task.number)}.json"
        record = Record(task.number, self._fingerprint(task))
        record.masks = [(annotation.category_id, annotation.score, None) for annotation in task.annotations]
        kept = _read_record(path)
        earlier = kept.files if kept else []
        if kept and kept.fingerprint == record.fingerprint and all((self.output / name).is_file() for name in earlier):
            return kept
        photo = self._draw_photo(task, record)
        for what, draw in (("label", self._draw_labels), (PREDICTED, self._draw_predictions)):
            try:
                draw(task, photo, record)
            except DataError as error:
                record.problems.append((what, str(error)))
        write_json(path, asdict(record))
        for name in set(earlier) - set(record.files):  # such as a crop that no longer stands for its class
            (path.parent / PurePosixPath(name).name).unlink(missing_ok=True)
        return record

    def _fingerprint(self, task: Task) -> str:
        """A hash of all that the pictures depend on."""
        parts: list[Any] = [DRAWING, task, _file_state(self.dataset.photo_path(task.photo))]
        for dataset, photo in ((self.dataset, task.photo), (self.predictions, task.predicted)):
            if dataset is not None:
                parts += [dataset.categories, photo and _file_state(dataset.png_path(photo))]
        return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:32]

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
        for kind, longest in (("large", LARGE), ("photo", THUMBNAIL)):
            size = fit(*picture.size, min(longest, max(picture.size)))
            picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
            self._save(record, f"{kind}.jpg", partial(picture.save, quality=82))
        return photo

    def _draw_labels(self, task: Task, photo: np.ndarray | None, record: Record) -> None:
        """Write the layers, and crops where there is a ``photo`` to cut them from."""
        ids, _ = self.dataset.read_label(task.photo)
        shown = [(annotation, annotation.mask(ids)) for annotation in task.annotations]
        record.masks = [(shape.category_id, shape.score, round(float(mask.mean()), 6)) for shape, mask in shown]
        record.void = round(float((ids == 0).mean()), 6)
        for view, categories in (("things", self.dataset.things), ("stuff", self.dataset.stuff)):
            members = {category.id for category in categories}
            self._draw_layer(
                self.dataset, ids, [pair for pair in shown if pair[0].category_id in members], view, record
            )
        self._draw_layer(self.dataset, ids, segments_of(task.photo, ids), "panoptic", record)
        for position in task.crops:
            if photo is not None and shown[position][1].any():
                crop = draw_crop(photo, shown[position][1], CROP_SIDE)
                record.crops.append((position, self._save(record, f"c{position}.jpg", partial(crop.save, quality=82))))

    def _draw_predictions(self, task: Task, _: np.ndarray | None, record: Record) -> None:
        if self.predictions is not None:
            if task.predicted is None:
                raise DataError("not in the predictions")
            ids, _ = self.predictions.read_label(task.predicted)
            self._draw_layer(self.predictions, ids, segments_of(task.predicted, ids), PREDICTED, record)

    def _draw_layer(
        self, dataset: PanopticDataset, ids: np.ndarray, shown: Sequence[Masked], view: str, record: Record
    ) -> None:
        """Write a layer, small masks over large, at twice the thumbnail's size: it serves the enlarged view too."""
        w, h = fit(ids.shape[1], ids.shape[0], 2 * THUMBNAIL)
        categories = {category.id: category for category in dataset.categories}
        regions_map = np.where((enlarge(ids, h, w) == 0) & (view != "things"), HATCHED, DIMMED).astype(np.int32)
        regions = []
        for annotation, mask in sorted(shown, key=lambda pair: -pair[1].mean()):
            category, share = categories[annotation.category_id], round(float(mask.mean()), 5)
            regions.append(Region(category.id, category.color, category.name, share, round(annotation.score, 4)))
            regions_map[enlarge(mask, h, w)] = len(regions)
        layer = draw_layer(regions_map, regions, THUMBNAIL)
        self._save(record, f"{view}.png", layer.save)
        record.views[view] = [list(mark) for mark in layer.marks]

    def _save(self, record: Record, ending: str, write: Callable[[Path], None]) -> str:
        name = f"{media_stem(record.number)}_{ending}"
        with replacing(self.output / name) as path:
            write(path)
        record.files.append(name)
        return name


def _read_record(path: Path) -> Record | None:
    """What an earlier run drew of a photo; None where that is absent or damaged: the photo is drawn again."""
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        return record if all(isinstance(name, str) for name in record.files) else None
    except (OSError, ValueError, TypeError):
        return None


def delete_pictures(output: Path, count: int) -> None:
    """Delete what an earlier, larger gallery drew of photos from number ``count`` on."""
    for folder in sorted((output / "media").glob("[0-9]*/")):
        if not folder.name.isdecimal() or int(folder.name) < count // 500:
            continue
        for path in sorted(folder.iterdir()):
            number = re.match(r"(\d{6,})[._]", path.name)
            if number and int(number[1]) >= count:
                path.unlink()


def segments_of(photo: LabelledPhoto, ids: np.ndarray) -> list[Masked]:
    """The panoptic segments of ``photo`` with the masks that they have in ``ids`` int32 (H, W)."""
    segments = [Annotation.of_segment(segment) for segment in photo.segments]
    return [(segment, segment.mask(ids)) for segment in segments]


def _file_state(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change of a file, None where there is none."""
    try:
        return file_state(path)
    except (OSError, ValueError):
        return None
