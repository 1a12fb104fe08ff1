"""The whole evaluation of a directory of pseudo labels, from paths to a report: all of ``tools/evaluate_pseudo.py``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.detection import class_agnostic_scores
from u2seg.evaluation.fitting import Scoring
from u2seg.evaluation.pairing import Pairing, pair_images
from u2seg.evaluation.picture import draw_clusters
from u2seg.evaluation.report import Report
from u2seg.evaluation.runs import boxes_of
from u2seg.evaluation.saved import save_matching
from u2seg.evaluation.tables import SEGMENT, ImageTable, SetTable, compare_maps
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.executors import make_executor
from u2seg.jobs import run_in_order
from u2seg.panoptic import INSTANCES_JSON, LabelledPhoto, PanopticDataset, read_instances, read_panoptic
from u2seg.panoptic.agreement import warn_of_areas
from u2seg.runtime import Progress

PHOTOS_WORTH_WORKERS = 400
"""Below so many photos, starting worker processes takes longer than it saves."""


@dataclass(frozen=True)
class LabelPaths:
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
) -> Report:
    """Score pseudo labels against human ones.

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
    gt, pseudo, pairing = _read(scored)
    taxonomy = Taxonomy.of(gt, scoring.things, scoring.stuff)
    comparison = _compare(gt, pseudo, pairing, taxonomy, scoring, workers)
    detections, source = _masks(pseudo, pairing, comparison.table)
    fitted, name = None, str(scored.pseudo)
    if fit_on:
        other, other_pseudo, shared = _read(fit_on)
        classes = Taxonomy.of(other, scoring.things, scoring.stuff).aligned_with(taxonomy, str(other.json_file))
        fitted, name = _compare(other, other_pseudo, shared, classes, scoring, workers), str(fit_on.pseudo)
    fits = scoring.fits(comparison, fitted, name)
    if save:
        save_matching(save, fitted or comparison, scoring.policies, name)
    if picture:
        draw_clusters(comparison, scoring.policies[0], picture)
    masks = class_agnostic_scores(comparison.table, detections, source, scoring.backend)
    left_out = {"only_gt": pairing.only_gt, "only_pseudo": pairing.only_pseudo}
    return Report.of(str(scored.pseudo), str(scored.gt), fits, scoring, masks, **left_out)


def _read(paths: LabelPaths) -> tuple[PanopticDataset, PanopticDataset, Pairing]:
    for folder in (paths.pseudo, paths.gt_dir):
        if not folder.is_dir():
            raise UsageError(f"there is no directory {folder}")
    gt, pseudo = read_panoptic(paths.gt, paths.gt_dir), read_panoptic(paths.pseudo)
    return gt, pseudo, pair_images(gt, pseudo)


def _compare(
    gt: PanopticDataset,
    pseudo: PanopticDataset,
    pairing: Pairing,
    taxonomy: Taxonomy,
    scoring: Scoring,
    workers: int,
) -> Comparison:
    """Read all PNGs, in this process or in others."""
    few = len(pairing.pairs) < PHOTOS_WORTH_WORKERS
    workers = workers or (1 if few else min(os.cpu_count() or 1, 8))
    read_table = partial(_read_table, replace(gt, photos=()), replace(pseudo, photos=()))  # little to send to workers
    images = []
    executor_name = "process" if workers > 1 else "inline"
    with (
        make_executor(executor_name, workers, 1) as executor,
        Progress("comparing labels", len(pairing.pairs)) as progress,
    ):
        for table in run_in_order(executor, read_table, pairing.pairs, 32 * workers):
            images.append(table)
            progress.advance()
    table = SetTable.join(images)
    for dataset, side, rows in ((gt, 0, table.gt), (pseudo, 1, table.pred)):
        segments = [segment for pair in pairing.pairs for segment in pair[side].segments]
        warn_of_areas(dataset.json_file, segments, rows["area"])
    clusters = np.array([category.id for category in (*pseudo.things, *pseudo.stuff)], np.int64), len(pseudo.things)
    return Comparison(table, taxonomy, *clusters, scoring.thresholds, backend=scoring.backend)


def _read_table(gt: PanopticDataset, pseudo: PanopticDataset, pair: tuple[LabelledPhoto, LabelledPhoto]) -> ImageTable:
    true, guess = pair
    try:
        return compare_maps(gt.read_ids(true), pseudo.read_ids(guess), true.segments, guess.segments)
    except DataError as error:
        raise DataError(f"photo {true.file_name!r}: {error}") from error


def _masks(pseudo: PanopticDataset, pairing: Pairing, table: SetTable) -> tuple[np.ndarray, str]:
    """All masks, `SEGMENT` (N,), and where they come from: ``instances.json``, else the things of the PNGs.

    Raises:
        DataError: ``instances.json`` does not fit the photos.
    """
    instances = read_instances(pseudo)
    if instances is None:
        return table.pred, f"panoptic PNGs, for want of {INSTANCES_JSON}"
    photos = enumerate(photo for _, photo in pairing.pairs)
    entries = [(index, entry) for index, photo in photos for entry in instances[photo.image_id]]
    rows = np.zeros(len(entries), SEGMENT)
    rows["image"] = [index for index, _ in entries]
    rows["score"] = [entry["score"] for _, entry in entries]
    rows["code"] = codes = [entry["segmentation"] for _, entry in entries]
    rows["box"] = boxes_of(codes)
    return rows, INSTANCES_JSON
