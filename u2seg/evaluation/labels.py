"""The whole evaluation of a directory of pseudo labels, from paths to a report: all of ``tools/evaluate_pseudo.py``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco

from u2seg.errors import DataError, UsageError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.detection import class_agnostic_scores
from u2seg.evaluation.fitting import save_matching, ways_to_fit
from u2seg.evaluation.matching import Scoring, Taxonomy
from u2seg.evaluation.report import draw_clusters, make_report
from u2seg.evaluation.tables import SEGMENT, Table, compare_maps, join_rows, rows_of_images, warn_of_rows
from u2seg.executors import make_executor
from u2seg.jobs import run_in_order
from u2seg.panoptic import INSTANCES_JSON, LabelledPhoto, PanopticDataset, read_instances, read_panoptic
from u2seg.panoptic.pairing import pair_images
from u2seg.runtime import track

PHOTOS_WORTH_WORKERS = 400
"""Below so many photos, starting worker processes takes longer than it saves."""


class LabelPaths(NamedTuple):
    """Where pseudo labels and the human labels of the same photos lie."""

    pseudo: Path  # Directory with ``panoptic.json``, its PNGs, and perhaps ``instances.json``
    gt: Path  # COCO panoptic JSON
    gt_dir: Path  # Its PNGs


def evaluate_labels(
    scored: LabelPaths,
    scoring: Scoring,
    fit_on: LabelPaths | None = None,
    save: Path | None = None,
    picture: Path | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Score pseudo labels against human ones; returns `make_report`'s report.

    Args:
        scored: what to score.
        scoring: how.
        fit_on: other labels, of the same clusters, to fit the matching on.
        save: where to write the fitted matchings.
        picture: where to draw which cluster overlaps which class, see `draw_clusters`.
        workers: processes that read PNGs; 0: as many as help.

    Raises:
        UsageError: a path or a choice is wrong.
        DataError: the files contradict each other.
    """
    if scoring.matching and (fit_on or save):
        raise UsageError("--matching fits nothing, so --fit-on and --save-matching can't go with it")
    pairs, left_out, pseudo, comparison = _compare(scored, scoring, workers)
    detections, source = _read_detections(pseudo, pairs[:, 1], comparison.table)
    fitted, name = None, str(scored.pseudo)
    if fit_on:
        *_, fitted = _compare(fit_on, scoring, workers, comparison.taxonomy)
        name = str(fit_on.pseudo)
    fits = ways_to_fit(scoring, comparison, fitted, name)
    if save:
        save_matching(save, fitted or comparison, scoring.policies, name)
    if picture:
        draw_clusters(comparison, scoring.policies[0], picture)
    masks = class_agnostic_scores(comparison.table, detections, source, scoring.backend)
    del detections, pseudo  # figures are made of the table alone, and need memory of their own
    return make_report(str(scored.pseudo), str(scored.gt), fits, masks, **left_out)


def _compare(
    paths: LabelPaths, scoring: Scoring, workers: int, like: Taxonomy | None = None
) -> tuple[np.ndarray, dict[str, list[str]], PanopticDataset, Comparison]:
    """Pair the photos and read all PNGs, in this process or in others."""
    for folder in (paths.pseudo, paths.gt_dir):
        if not folder.is_dir():
            raise UsageError(f"there is no directory {folder}")
    gt, pseudo = read_panoptic(paths.gt, paths.gt_dir), read_panoptic(paths.pseudo)
    taxonomy = Taxonomy.of(gt, scoring.things, scoring.stuff, like)
    pairs, left_out = pair_images(gt, pseudo)
    workers = workers or (1 if len(pairs) < PHOTOS_WORTH_WORKERS else min(os.cpu_count() or 1, 8))
    read_table = partial(_read_table, gt.without_photos(), pseudo.without_photos())  # little to send to workers
    executor_name = "process" if workers > 1 else "inline"
    photos = ((gt.photos[first], pseudo.photos[second]) for first, second in pairs.tolist())
    with make_executor(executor_name, workers, 1) as executor:
        tables = run_in_order(executor, read_table, photos, 32 * workers)
        table = Table.join(track(tables, "comparing labels", len(pairs)))
    for dataset, rows in ((gt, table.gt), (pseudo, table.pred)):
        warn_of_rows(dataset.json_file, rows)
    clusters = np.array([category.id for category in (*pseudo.things, *pseudo.stuff)], np.int64), len(pseudo.things)
    return pairs, left_out, pseudo, Comparison(table, taxonomy, *clusters, scoring)


def _read_table(gt: PanopticDataset, pseudo: PanopticDataset, pair: tuple[LabelledPhoto, LabelledPhoto]) -> Table:
    true, guess = pair
    try:
        table = compare_maps(gt.read_ids(true), pseudo.read_ids(guess), true.segments, guess.segments)
    except DataError as error:
        raise DataError(f"photo {true.file_name!r}: {error}") from error
    if (pseudo.root / INSTANCES_JSON).is_file():
        table.pred["code"] = None  # most of the memory of large photos, and the instances are the detections
    return table


def _read_detections(
    pseudo: PanopticDataset, places: np.ndarray, table: Table
) -> tuple[Callable[[int, int], np.ndarray], str]:
    """Detections by images of ``table``, as `class_agnostic_scores` takes them, and where they are from.

    ``places`` int64 (I,) are those of the images in ``pseudo``.
    """
    instances = read_instances(pseudo)
    if instances is None:
        return partial(rows_of_images, table.pred), f"panoptic PNGs, for want of {INSTANCES_JSON}"

    def detections(start: int, end: int) -> np.ndarray:
        image_ids = (pseudo.photos.image_ids[place] for place in places[start:end].tolist())
        return join_rows((_detections(instances[image_id]) for image_id in image_ids), start)

    return detections, INSTANCES_JSON


def _detections(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """`SEGMENT` (n,) of the annotations of a photo."""
    rows = np.zeros(len(entries), SEGMENT)
    rows["score"] = [entry["score"] for entry in entries]
    rows["code"] = [entry["segmentation"]["counts"].encode() for entry in entries]
    rows["box"] = coco.toBbox([entry["segmentation"] for entry in entries]) if entries else 0
    return rows
