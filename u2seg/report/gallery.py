"""A gallery of a dataset: static pages that open from disk, however many photos it has.

Pictures go to ``media/``, written by worker processes and kept on a second run where nothing changed; pages are
written as soon as their photos are done, so memory holds the dataset's JSON and one page.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from u2seg.errors import UsageError
from u2seg.report.class_pages import Crop, class_page, class_table
from u2seg.report.html import ASSETS, asset
from u2seg.report.pages import Site, photo_page
from u2seg.report.run_page import run_page
from u2seg.report.source import Entry, LabelledSet, read_set
from u2seg.report.statistics import choose_crops, summarise
from u2seg.report.work import PREDICTED, Painter, Sizes, Task, paint_all, write_whole
from u2seg.runtime import Progress

logger = logging.getLogger(__name__)

PROBLEMS = {
    "photo": "photos could not be read and are shown as placeholders",
    "size": "photos have another size than their labels",
    "label": "photos have labels that could not be read",
    PREDICTED: "photos have no readable prediction",
}


def write_gallery(
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    predictions_dir: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
    thumbnail: int = 320,
    per_page: int = 48,
    crops_per_class: int = 24,
    max_images: int | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> Path:
    """Write the gallery of a dataset made by ``tools/generate_pseudo.py``.

    Args:
        dataset_dir: folder with ``panoptic.json``.
        output_dir: where the gallery goes; by default ``gallery`` in the dataset's folder.
        predictions_dir: another dataset of the same photos (by ``file_name``), shown beside.
        image_root: where the photos lie now, if they moved.
        thumbnail: longest side in pixels of the small pictures.
        per_page: photos on a page.
        crops_per_class: most crops of one class; drawn by ``seed`` where there are more segments.
        max_images: show no more than the first so many photos.
        workers: processes; by default one per core, and this one alone for few photos.
        seed: of the choice of crops.

    Returns:
        Path of ``index.html``.

    Raises:
        UsageError: no such dataset, a number out of range, or an output that can't be made.
        OSError: the disk is full; what is written stays, and another call goes on from it.
    """
    _check(thumbnail=thumbnail, per_page=per_page, crops_per_class=crops_per_class, max_images=max_images)
    root = Path(image_root) if image_root else None
    dataset = read_set(Path(dataset_dir), root, max_images)
    predicted = read_set(Path(predictions_dir), root) if predictions_dir else None
    output = Path(output_dir) if output_dir else Path(dataset_dir) / "gallery"
    site = Site(dataset, summarise(dataset), per_page, predicted.categories if predicted else {})
    plan = choose_crops(dataset, crops_per_class, seed)
    sizes = Sizes(thumbnail, max(3 * thumbnail, 640))
    painter = Painter(output, dataset.categories, sizes, predicted.categories if predicted else None)
    tasks = _tasks(dataset, predicted, plan)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = workers if len(dataset.entries) >= 32 else 1
    try:
        (output / "assets").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the gallery {output} can't be written: {error.strerror or error}") from error
    _write_pages(site, output, _report_progress(paint_all(painter, tasks, workers), len(dataset.entries)))
    return output / "index.html"


LIMITS = {"thumbnail": (32, 2048), "per_page": (1, 200), "crops_per_class": (0, 200), "max_images": (1, None)}
"""Least and most of each number; pages stay light."""


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        least, most = LIMITS[name]
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"{least} or more" if most is None else f"from {least} to {most}"
            raise UsageError(f"{name.replace('_', ' ')} must be {allowed}, not {value}")


def _tasks(dataset: LabelledSet, predicted: LabelledSet | None, plan: Mapping[int, list[int]]) -> Iterator[Task]:
    beside: dict[str, Entry] = {entry.name: entry for entry in predicted.entries} if predicted else {}
    for number, entry in enumerate(dataset.entries):
        other = beside.get(entry.name)
        if predicted and other is None:
            other = Entry(entry.image_id, entry.name, entry.photo, entry.width, entry.height)
        yield Task(number, entry, other, tuple(plan.get(number, ())))


def _report_progress(records: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
    """Pass ``records`` on under a bar, or with a line every few seconds where there is no terminal."""
    with Progress("gallery", total) as progress:
        for record in records:
            yield record
            progress.advance()


def _write_pages(site: Site, output: Path, records: Iterable[dict[str, Any]]) -> None:
    for name in ASSETS:
        _write_text(output / "assets" / name, asset(name))
    problems: Counter[str] = Counter()
    crops: dict[int, list[Crop]] = defaultdict(list)
    page: list[dict[str, Any]] = []
    written = 0
    for record in records:
        problems.update({what for what, _ in record["problems"]})
        _collect_crops(site.dataset, record, crops)
        page.append(record)
        if len(page) == site.per_page:
            _write_text(output / site.photo_pages[written], photo_page(site, written, page))
            written, page = written + 1, []
    if page or not written:
        _write_text(output / site.photo_pages[written], photo_page(site, written, page))
    for index, name in enumerate(site.class_pages):
        _write_text(output / name, class_page(site, index, crops))
    _write_text(output / "classes.html", class_table(site))
    notes = [f"{count} of {len(site.dataset.entries)} {PROBLEMS[what]}." for what, count in sorted(problems.items())]
    _write_text(output / "run.html", run_page(site, notes))
    _remove_old_pages(output, {*site.photo_pages, *site.class_pages})
    for note in notes:
        logger.warning("gallery: %s", note)


def _collect_crops(dataset: LabelledSet, record: Mapping[str, Any], crops: dict[int, list[Crop]]) -> None:
    """Add the crops that ``record`` says were drawn to those of their classes."""
    entry = dataset.entries[record["number"]]
    annotations: Sequence[Mapping[str, Any]] = entry.things() + entry.stuff_segments()
    for file in record["files"]:
        if found := re.search(r"_c(\d+)\.jpg$", file):
            item = annotations[int(found[1])]
            crop = Crop(file, record["number"], float(item.get("score", 1.0)), int(item["area"]))
            crops[item["category_id"]].append(crop)


def _write_text(path: Path, text: str) -> None:
    write: Callable[[str], object] = lambda place: Path(place).write_text(text, encoding="utf-8")  # noqa: E731
    write_whole(path, write)


def _remove_old_pages(output: Path, kept: set[str]) -> None:
    """Take away numbered pages of an earlier, larger gallery, which no page links to any more."""
    for path in output.iterdir():
        if re.fullmatch(r"(photos|classes)_\d{4,}\.html", path.name) and path.name not in kept:
            path.unlink()
