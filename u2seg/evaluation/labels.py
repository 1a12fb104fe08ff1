"""The whole evaluation of a directory of pseudo labels, from paths to a report: all of ``tools/evaluate_pseudo.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco

from u2seg.errors import DataError, UsageError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.detection import class_agnostic_scores
from u2seg.evaluation.fitting import ways_to_fit
from u2seg.evaluation.matching import Scoring
from u2seg.evaluation.report import draw_clusters, make_report
from u2seg.evaluation.saved import save_matching
from u2seg.evaluation.tables import SEGMENT, Table, compare_maps
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.executors import make_executor
from u2seg.jobs import run_in_order
from u2seg.panoptic import INSTANCES_JSON, LabelledPhoto, PanopticDataset, read_instances, read_panoptic
from u2seg.panoptic.agreement import warn_of_areas
from u2seg.runtime import Progress

PHOTOS_WORTH_WORKERS = 400
"""Below so many photos, starting worker processes takes longer than it saves."""


Pair = tuple[LabelledPhoto, LabelledPhoto]
"""A photo as the ground truth lists it, and as the pseudo labels do."""


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
    detections, source = _masks(pseudo, pairs, comparison.table)
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
    return make_report(str(scored.pseudo), str(scored.gt), fits, masks, **left_out)


def _compare(
    paths: LabelPaths, scoring: Scoring, workers: int, like: Taxonomy | None = None
) -> tuple[Sequence[Pair], dict[str, list[str]], PanopticDataset, Comparison]:
    """Pair the photos and read all PNGs, in this process or in others."""
    for folder in (paths.pseudo, paths.gt_dir):
        if not folder.is_dir():
            raise UsageError(f"there is no directory {folder}")
    gt, pseudo = read_panoptic(paths.gt, paths.gt_dir), read_panoptic(paths.pseudo)
    taxonomy = Taxonomy.of(gt, scoring.things, scoring.stuff, like)
    pairs, left_out = pair_images(gt, pseudo)
    workers = workers or (1 if len(pairs) < PHOTOS_WORTH_WORKERS else min(os.cpu_count() or 1, 8))
    read_table = partial(_read_table, gt.without_photos(), pseudo.without_photos())  # little to send to workers
    images = []
    executor_name = "process" if workers > 1 else "inline"
    with make_executor(executor_name, workers, 1) as executor, Progress("comparing labels", len(pairs)) as progress:
        for table in run_in_order(executor, read_table, pairs, 32 * workers):
            images.append(table)
            progress.advance()
    table = Table.join(images)
    for dataset, side, rows in ((gt, 0, table.gt), (pseudo, 1, table.pred)):
        segments = [segment for pair in pairs for segment in pair[side].segments]
        warn_of_areas(dataset.json_file, segments, rows["area"])
    clusters = np.array([category.id for category in (*pseudo.things, *pseudo.stuff)], np.int64), len(pseudo.things)
    return pairs, left_out, pseudo, Comparison(table, taxonomy, *clusters, scoring)


def pair_images(gt: PanopticDataset, pseudo: PanopticDataset) -> tuple[list[Pair], dict[str, list[str]]]:
    """Find the photos of ``gt`` in ``pseudo``.

    First by the whole file name, then by the longest end of the path that names a single photo on each side (so
    ``val/a.jpg`` is ``coco/val/a.jpg``), then by ends without the file ending, the stem at last. What stays ambiguous
    is left out.

    Returns:
        The pairs, in order of stem; and by ``only_gt`` and ``only_pseudo``, the file names without a partner.

    Raises:
        DataError: no photo is in both.
    """
    paths = [[PurePosixPath(photo.file_name) for photo in each.photos] for each in (gt, pseudo)]
    whole = [[path.parts for path in side] for side in paths]
    bare = [[(*path.parts[:-1], path.stem) for path in side] for side in paths]
    deepest = max((len(parts) for side in whole for parts in side), default=0)
    partner: dict[int, int] = {}
    paired: set[int] = set()
    for sides, depth in [(whole, 0), *((sides, depth) for sides in (whole, bare) for depth in range(deepest, 0, -1))]:
        first, second = (_unique_ends(names, depth) for names in sides)
        for end in first.keys() & second.keys():
            if first[end] not in partner and second[end] not in paired:
                partner[first[end]] = second[end]
                paired.add(second[end])
    if not partner:
        examples = [f" such as {each.photos[0].file_name!r}" if each.photos else "" for each in (gt, pseudo)]
        sets = [
            f"{each.json_file} ({len(each.photos)} photos{e})" for each, e in zip((gt, pseudo), examples, strict=True)
        ]
        raise DataError(f"no photo of {sets[0]} is in {sets[1]} by its file name; give labels of the same photos")
    pairs = [(gt.photos[index], pseudo.photos[other]) for index, other in partner.items()]
    return sorted(pairs, key=lambda pair: (pair[0].stem, pair[0].file_name)), {
        "only_gt": [photo.file_name for index, photo in enumerate(gt.photos) if index not in partner],
        "only_pseudo": [photo.file_name for index, photo in enumerate(pseudo.photos) if index not in paired],
    }


def _unique_ends(names: Sequence[tuple[str, ...]], depth: int) -> dict[tuple[str, ...], int]:
    """The last ``depth`` parts of each of ``names``, or all for 0, with its position; only those that one name has."""
    place: dict[tuple[str, ...], int | None] = {}
    for index, parts in enumerate(names):
        if len(parts) >= max(depth, 1):
            end = parts[-depth:]
            place[end] = None if end in place else index
    return {end: index for end, index in place.items() if index is not None}


def _read_table(gt: PanopticDataset, pseudo: PanopticDataset, pair: Pair) -> Table:
    true, guess = pair
    try:
        return compare_maps(gt.read_ids(true), pseudo.read_ids(guess), true.segments, guess.segments)
    except DataError as error:
        raise DataError(f"photo {true.file_name!r}: {error}") from error


def _masks(pseudo: PanopticDataset, pairs: Sequence[Pair], table: Table) -> tuple[np.ndarray, str]:
    """All masks, `SEGMENT` (N,), and where they come from: ``instances.json``, else the things of the PNGs.

    Raises:
        DataError: ``instances.json`` does not fit the photos.
    """
    instances = read_instances(pseudo)
    if instances is None:
        return table.pred, f"panoptic PNGs, for want of {INSTANCES_JSON}"
    photos = enumerate(photo for _, photo in pairs)
    entries = [(index, entry) for index, photo in photos for entry in instances[photo.image_id]]
    rows = np.zeros(len(entries), SEGMENT)
    rows["image"] = [index for index, _ in entries]
    rows["score"] = [entry["score"] for _, entry in entries]
    rows["code"] = codes = [entry["segmentation"] for _, entry in entries]
    rows["box"] = coco.toBbox(codes)
    return rows, INSTANCES_JSON
