"""One photo's pictures: read once, drawn at all sizes, written whole, skipped next time if nothing changed.

Runs in worker processes: what goes in and comes out is small and pickles.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from u2seg.errors import DataError, U2SegError
from u2seg.images import read_image
from u2seg.report.draw import draw_crop, fit
from u2seg.report.layers import VIEWS, Labels
from u2seg.report.source import Category, Entry

DRAWING = 1
"""Raise it when pictures are drawn differently, so that old ones are not taken for whole."""

PREDICTED = "predicted"
"""The view that shows another dataset's panoptic labels."""


@dataclass(frozen=True)
class Sizes:
    """Longest sides in pixels."""

    thumbnail: int = 320
    enlarged: int = 960
    crop: int = 176


@dataclass(frozen=True)
class Task:
    """What is to be drawn of one photo."""

    number: int
    """Position in the dataset; names the files."""
    entry: Entry
    predicted: Entry | None = None
    crops: tuple[int, ...] = ()
    """Positions in ``entry.things() + entry.stuff_segments()``."""


def media_stem(number: int) -> str:
    """Start of the names of a photo's pictures, below the gallery: 500 photos a folder."""
    return f"media/{number // 500:04d}/{number:06d}"


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Painter:
    """Draws tasks; returns a record each, as JSON keeps it.

    A record is ``{number, fingerprint, files, views: {view: [mark]}, problems: [[what, why]]}``.
    """

    def __init__(
        self,
        output: Path,
        categories: Mapping[int, Category],
        sizes: Sizes,
        predicted: Mapping[int, Category] | None = None,
    ) -> None:
        """Draw into ``output`` with the colours and names of ``categories`` and, of predictions, ``predicted``."""
        self.output = output
        self.categories = dict(categories)
        self.sizes = sizes
        self.predicted = dict(predicted or {})

    def __call__(self, task: Task) -> dict[str, Any]:
        """Draw ``task``, or return the record of an earlier run that drew the same."""
        stem = self.output / media_stem(task.number)
        fingerprint = self._fingerprint(task)
        known = self._known(stem.with_suffix(".json"), fingerprint)
        if known is not None:
            return known
        stem.parent.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {
            "number": task.number,
            "fingerprint": fingerprint,
            "files": [],
            "views": {},
            "problems": [],
        }
        photo = self._draw_photo(task, stem, record)
        self._draw_labels(task, photo, stem, record)
        text = json.dumps(record, separators=(",", ":"))
        write_whole(stem.with_suffix(".json"), lambda path: Path(path).write_text(text, encoding="utf-8"))
        return record

    def _fingerprint(self, task: Task) -> str:
        used = {s["category_id"] for s in (*task.entry.segments, *task.entry.things())}
        stuff = [c for c in self.categories if not self.categories[c].isthing]  # a stuff map may hold any of them
        parts: list[Any] = [DRAWING, asdict(self.sizes), asdict(task.entry), task.crops]
        parts += [[asdict(self.categories[c]) for c in sorted(used.union(stuff))]]
        parts += [_state(path) for path in (task.entry.photo, task.entry.label, task.entry.stuff)]
        if task.predicted is not None:
            parts += [asdict(task.predicted), _state(task.predicted.label)]
            parts += [[asdict(self.predicted[s["category_id"]]) for s in task.predicted.segments]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _known(self, path: Path, fingerprint: str) -> dict[str, Any] | None:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["fingerprint"] != fingerprint:
                return None
            whole = all((self.output / name).is_file() for name in record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent, or not ours: it is drawn anew
        return record if whole else None

    def _save(self, record: dict[str, Any], path: Path, write: Callable[[str], object]) -> None:
        write_whole(path, write)
        record["files"].append(path.relative_to(self.output).as_posix())

    def _draw_photo(self, task: Task, stem: Path, record: dict[str, Any]) -> np.ndarray | None:
        """Write the photo in two sizes; return its pixels uint8 (H, W, 3), or None if it can't be read."""
        try:
            photo = read_image(task.entry.photo)
        except DataError as error:
            reason = "not found" if not os.path.exists(task.entry.photo) else str(error)
            record["problems"].append(["photo", reason])
            return None
        height, width = photo.shape[:2]
        if (width, height) != (task.entry.width, task.entry.height):
            said = f"{task.entry.width}x{task.entry.height}"
            record["problems"].append(["size", f"the photo is {width}x{height}, its labels {said}"])
            photo = np.asarray(Image.fromarray(photo).resize((task.entry.width, task.entry.height)))
        picture = Image.fromarray(photo)
        for kind, longest in (("large", self.sizes.enlarged), ("photo", self.sizes.thumbnail)):
            size = fit(*picture.size, min(longest, max(picture.size)))
            picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
            self._save(record, stem.with_name(f"{stem.name}_{kind}.jpg"), _jpeg(picture))
        return photo

    def _draw_labels(self, task: Task, photo: np.ndarray | None, stem: Path, record: dict[str, Any]) -> None:
        """Write layers at twice the thumbnail's size, which serve the enlarged view too, and crops."""
        size = fit(task.entry.width, task.entry.height, 2 * self.sizes.thumbnail)
        try:
            labels = Labels(task.entry, self.categories)
            for view in VIEWS:
                self._draw_layer(labels, view, view, size, stem, record)
            annotations = task.entry.things() + task.entry.stuff_segments()
            for position in task.crops if photo is not None else ():
                mask = labels.mask(annotations[position])
                if photo is not None and mask.any():
                    crop = _jpeg(draw_crop(photo, mask, self.sizes.crop))
                    self._save(record, stem.with_name(f"{stem.name}_c{position}.jpg"), crop)
        except DataError as error:
            record["problems"].append(["label", str(error)])
        if task.predicted is None:
            return
        try:
            labels = Labels(task.predicted, self.predicted)
            self._draw_layer(labels, "panoptic", PREDICTED, size, stem, record)
        except DataError as error:
            record["problems"].append([PREDICTED, str(error)])

    def _draw_layer(
        self, labels: Labels, view: str, shown_as: str, size: tuple[int, int], stem: Path, record: dict[str, Any]
    ) -> None:
        layer = labels.layer(view, size, self.sizes.thumbnail)
        self._save(record, stem.with_name(f"{stem.name}_{shown_as}.png"), layer.save)
        record["views"][shown_as] = [list(mark) for mark in layer.marks]


def _jpeg(picture: Image.Image) -> Callable[[str], object]:
    return lambda path: picture.save(path, "JPEG", quality=82)


def _state(path: str) -> list[int] | None:
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return [state.st_size, state.st_mtime_ns]


def paint_all(painter: Painter, tasks: Iterable[Task], workers: int) -> Iterator[dict[str, Any]]:
    """Records of ``tasks`` in their order; few are under way at a time, so memory does not grow with their number."""
    if workers <= 1:
        yield from map(painter, tasks)
        return
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool

    # Not forked: a caller may run threads (torch, BLAS) that a forked child would hang on.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting: deque[Future[dict[str, Any]]] = deque()
            for task in tasks:
                waiting.append(pool.submit(painter, task))
                if len(waiting) > 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise U2SegError(
            "a drawing process died: for lack of memory, or because the script that called write_gallery has no "
            "`if __name__ == '__main__':`; workers=1 needs neither"
        ) from error
