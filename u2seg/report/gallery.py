"""A gallery of a dataset: static pages that open from disk, however many photos it has.

Pictures go to ``media/``, written by worker processes and kept on a second run where nothing changed; pages are
written as soon as their photos are done, so memory holds the dataset's columns and one page.
"""

from __future__ import annotations

import itertools
import logging
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, within
from u2seg.executors import make_executor
from u2seg.fields import read_json_object
from u2seg.files import claim_directory, write_bytes
from u2seg.jobs import run_in_order
from u2seg.panoptic import RUN_JSON, LabelledPhoto, PanopticDataset, read_instances, read_panoptic
from u2seg.panoptic.pairing import pair_images
from u2seg.report.labels import Annotation, ClassCount, Summary, annotations_of, choose_crops
from u2seg.report.pages import Crop, Site, class_page, class_table, photo_page, run_page
from u2seg.report.pictures import PREDICTED, Painter, Record, Task, delete_pictures
from u2seg.runtime import available_cores, track

logger = logging.getLogger(__name__)

PROBLEMS = {
    "photo": "photos could not be read and are shown as placeholders",
    "size": "photos have another size than their labels",
    "label": "photos have labels that could not be read",
    PREDICTED: "photos have no readable prediction",
}
CROPS_PER_CLASS = 24
"""At most; drawn at random where there are more masks."""


def write_gallery(
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    predictions_dir: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
    per_page: int = 48,
    max_images: int | None = None,
    workers: int | None = None,
) -> Path:
    """Write the gallery of a panoptic dataset.

    Args:
        dataset_dir: folder with ``panoptic.json``.
        output_dir: where the gallery goes; by default ``gallery`` in the dataset's folder.
        predictions_dir: another dataset of the same photos (see `pair_images`), shown beside.
        image_root: where the photos lie now, if they moved.
        per_page: photos on a page; up to 200, so that pages stay light.
        max_images: show no more than the first so many photos.
        workers: processes; by default one per core, and this one alone for few photos.

    Returns:
        Path of ``index.html``.

    Raises:
        UsageError: no such dataset, a number out of range, or an output that can't be made.
        DataError: a JSON file of the dataset is damaged, or none of its photos is in the predictions, or none of its
            labels can be read; the gallery is then there all the same.
        OSError: the disk is full; what is written stays, and another call resumes from it.
    """
    within("per page", per_page, 1, 200, whole=True)
    within("max images", 1 if max_images is None else max_images, 1, whole=True)
    dataset = read_panoptic(Path(dataset_dir), image_root=Path(image_root) if image_root else None)
    instances = read_instances(dataset)
    predictions = read_panoptic(Path(predictions_dir)) if predictions_dir else None
    partner: dict[int, int] = dict(pair_images(dataset, predictions)[0].tolist()) if predictions else {}
    if max_images is not None:  # after pairing, since what is the end of one path only depends on all photos
        dataset = replace(dataset, photos=dataset.photos[:max_images])
    run = read_json_object(file) if (file := dataset.root / RUN_JSON).is_file() else {}
    output = claim_directory(output_dir or dataset.root / "gallery", "gallery")
    annotate = partial(annotations_of, instances=instances)  # made when they are asked for
    site, count = Site(dataset, map(annotate, dataset.photos), run, per_page, predictions), len(dataset.photos)
    light = predictions and predictions.without_photos()  # each task carries its own photo to the worker
    painter, tasks = Painter(output, dataset.without_photos(), light), _tasks(dataset, annotate, predictions, partner)
    workers = workers or (available_cores() if count >= 32 else 1)
    with make_executor("process" if workers > 1 else "inline", workers, threads=1) as executor:
        unreadable = _write_pages(site, output, run_in_order(executor, painter, tasks, 8 * workers))
    delete_pictures(output, count)
    if unreadable:
        raise DataError(f"{dataset.root}: {unreadable}")
    return output / "index.html"


def _tasks(
    dataset: PanopticDataset,
    annotate: Callable[[LabelledPhoto], tuple[Annotation, ...]],
    predictions: PanopticDataset | None,
    partner: Mapping[int, int],
) -> Iterator[Task]:
    """What is to be drawn of each photo, made when its turn comes; ``partner`` is its place in the predictions."""
    crops = choose_crops(map(annotate, dataset.photos), CROPS_PER_CLASS)
    for number, photo in enumerate(dataset.photos):
        predicted = predictions.photos[partner[number]] if predictions and number in partner else None
        yield Task(number, photo, annotate(photo), predicted, tuple(crops.get(number, ())))


class Drawn:
    """What pages that need all photos know of them, gathered as the photos are drawn."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self._dataset = dataset
        self.problems: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self.crops: dict[int, list[Crop]] = defaultdict(list)
        self._columns: tuple[array[Any], ...] = (array("i"), array("i"), array("d"), array("d"))
        """Class, photo, score and share of each mask."""
        self._voids = array("d")

    def add(self, record: Record) -> None:
        """Note what was drawn of the next photo."""
        for what, why in record.problems:
            self.problems[what] += 1
            self._reasons.setdefault(what, f"{self._dataset.photos[record.number].file_name}: {why}")
        for category, score, share in record.masks:
            row = (category, record.number, score, np.nan if share is None else share)
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
        for position, file in record.crops:
            category, score, share = record.masks[position]
            self.crops[category].append(Crop(file, record.number, score, share or 0.0))
        self._voids.extend([] if record.void is None else [record.void])

    def summary(self) -> Summary:
        """Counts over the whole set."""
        categories, photos, scores, shares = map(np.asarray, self._columns)
        classes = {}
        for category in self._dataset.categories:
            members = np.flatnonzero(categories == category.id)
            areas = shares[members][~np.isnan(shares[members])]
            score, area = (float(values.sum() / max(1, len(values))) for values in (scores[members], areas))
            classes[category.id] = ClassCount(len(members), len(np.unique(photos[members])), score, area, areas)
        counts = [len(photo.segments) for photo in self._dataset.photos]
        return Summary(classes, *(float(np.mean(values)) if len(values) else None for values in (counts, self._voids)))

    def notes(self) -> dict[str, str]:
        """A line for each problem that there was."""
        return {
            what: f"{count} of {len(self._dataset.photos)} {PROBLEMS[what]}, such as {self._reasons[what]}"
            for what, count in sorted(self.problems.items())
        }


def _write_pages(site: Site, output: Path, records: Iterable[Record]) -> str:
    """Write the pages of photos as their ``records`` come, then those that need all of them.

    Returns:
        Why no label at all can be read; empty where one can.
    """

    def write(name: str, text: str) -> None:
        # Bytes of a file name that are no UTF-8 become question marks.
        write_bytes(output / name, text.encode("utf-8", "replace"))

    for name in ("gallery.css", "gallery.js"):
        write(f"assets/{name}", (files("u2seg.report") / "templates" / name).read_text(encoding="utf-8"))
    drawn, count = Drawn(site.dataset), len(site.dataset.photos)
    first_page: list[Record] = []
    drawings = track(records, "gallery", count)
    for page, group in itertools.groupby(drawings, key=lambda record: record.number // site.per_page):
        of_page = []
        for record in group:
            of_page.append(record)
            drawn.add(record)
        if page:
            write(site.photo_pages[page], photo_page(site, page, of_page))
        else:
            first_page = of_page
    summary, notes = drawn.summary(), drawn.notes()
    for page, name in enumerate(site.class_pages):
        write(name, class_page(site, page, summary, drawn.crops))
    write("classes.html", class_table(site, summary))
    write("run.html", run_page(site, summary, list(notes.values())))
    write("index.html", photo_page(site, 0, first_page, summary))
    for path in (*output.glob("photos_*.html"), *output.glob("classes_*.html")):  # of an earlier, larger gallery
        if path.name not in (*site.photo_pages, *site.class_pages):
            path.unlink()
    for note in notes.values():
        logger.warning("gallery: %s", note)
    return notes["label"] if drawn.problems["label"] == count > 0 else ""
