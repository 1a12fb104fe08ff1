"""The whole evaluation of a directory of pseudo labels, from paths to a report: all of ``tools/evaluate_pseudo.py``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.detection import Detections, class_agnostic_scores
from u2seg.evaluation.fitting import Fit, FoldFit, SavedFit, SetFit
from u2seg.evaluation.matching import DEFAULT_POLICIES, RULES, VoteThresholds
from u2seg.evaluation.pairing import Pairing, pair_images
from u2seg.evaluation.picture import draw_clusters
from u2seg.evaluation.report import Report
from u2seg.evaluation.runs import boxes_of, compressed
from u2seg.evaluation.saved import load_matching, save_matching
from u2seg.evaluation.tables import SEGMENT, ImageTable, SetTable, compare_maps
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.panoptic import INSTANCES_JSON, LabelledPhoto, PanopticDataset, read_instances, read_panoptic
from u2seg.runtime import Progress, make_executor, run_in_order

PHOTOS_WORTH_WORKERS = 400
"""Below so many photos, starting worker processes takes longer than it saves."""
PHOTOS_A_JOB = 16


@dataclass(frozen=True)
class LabelPaths:
    """Where pseudo labels and the human labels of the same photos lie."""

    pseudo: Path
    """Directory with ``panoptic.json``, its PNGs, and perhaps ``instances.json``."""
    gt: Path
    """COCO panoptic JSON."""
    gt_dir: Path
    """Its PNGs."""


@dataclass(frozen=True)
class Request:
    """What to score, and how."""

    scored: LabelPaths
    policies: Sequence[str] = DEFAULT_POLICIES
    things: str = "category"
    """Level of human thing classes, see `Taxonomy.of`."""
    stuff: str = "supercategory"
    """Level of human stuff classes."""
    thresholds: VoteThresholds = VoteThresholds()
    fit_on: LabelPaths | None = None
    matching: Path | None = None
    save_matching: Path | None = None
    picture: Path | None = None
    """Where to draw which cluster overlaps which class, see `draw_clusters`."""
    folds: int = 0
    """0: none; else also figures of a matching fitted on the other folds."""
    seeds: int = 5
    """Runs of the chance control; 0: none."""
    workers: int = 0
    """Processes that read PNGs; 0: as many as help."""
    backend: str | None = None
    """COCO library; the fastest installed if None."""

    def __post_init__(self) -> None:
        for policy in self.policies:
            lookup("matching policy", policy, RULES)
        if self.seeds < 0 or self.workers < 0:
            option, value = ("--seeds", self.seeds) if self.seeds < 0 else ("--workers", self.workers)
            raise UsageError(f"{option} takes 0 or more, not {value}")
        if self.fit_on and self.matching:
            raise UsageError("--fit-on and --matching both say where the matching comes from; give one")
        if self.matching and (self.folds or self.save_matching):
            raise UsageError("--matching fits nothing, so --folds and --save-matching can't go with it")


@dataclass(frozen=True)
class LabelledTwice:
    """Human and pseudo labels of the same photos, and their tables."""

    gt: PanopticDataset
    pseudo: PanopticDataset
    pairing: Pairing
    images: Sequence[ImageTable]

    @classmethod
    def read(cls, paths: LabelPaths, workers: int, title: str) -> LabelledTwice:
        """Read both sets and all PNGs of the photos that they share.

        Raises:
            UsageError: a path is wrong.
            DataError: the files contradict each other.
        """
        for folder in (paths.pseudo, paths.gt_dir):
            if not folder.is_dir():
                raise UsageError(f"there is no directory {folder}")
        gt, pseudo = read_panoptic(paths.gt, paths.gt_dir), read_panoptic(paths.pseudo)
        pairing = pair_images(gt, pseudo)
        return cls(gt, pseudo, pairing, _read_tables(gt, pseudo, pairing.pairs, workers, title))

    def comparison(self, taxonomy: Taxonomy, request: Request) -> Comparison:
        """What is scored, or fitted on."""
        things, stuff = (tuple(c.id for c in part) for part in (self.pseudo.things, self.pseudo.stuff))
        table = SetTable.join(self.images)
        return Comparison(table, taxonomy, things, stuff, request.thresholds, backend=request.backend)


def _read_tables(
    gt: PanopticDataset,
    pseudo: PanopticDataset,
    pairs: Sequence[tuple[LabelledPhoto, LabelledPhoto]],
    workers: int,
    title: str,
) -> list[ImageTable]:
    count = workers or (1 if len(pairs) < PHOTOS_WORTH_WORKERS else min(os.cpu_count() or 1, 8))
    reader = _TableReader(replace(gt, photos=()), replace(pseudo, photos=()))
    jobs = [pairs[start : start + PHOTOS_A_JOB] for start in range(0, len(pairs), PHOTOS_A_JOB)]
    images: list[ImageTable] = []
    with make_executor("process", count, 1) as executor, Progress(title, len(pairs)) as progress:
        for tables in run_in_order(executor, reader, jobs, 4 * count):
            images += tables
            progress.advance(len(tables))
    return images


@dataclass(frozen=True)
class _TableReader:
    """Reads labels of photos, maybe in a worker process, which needs the datasets without their photos."""

    gt: PanopticDataset
    pseudo: PanopticDataset

    def __call__(self, pairs: Sequence[tuple[LabelledPhoto, LabelledPhoto]]) -> list[ImageTable]:
        return [self._read(*pair) for pair in pairs]

    def _read(self, gt: LabelledPhoto, pseudo: LabelledPhoto) -> ImageTable:
        try:
            maps = self.gt.read_ids(gt), self.pseudo.read_ids(pseudo)
            return compare_maps(*maps, gt.segments, pseudo.segments)
        except DataError as error:
            raise DataError(f"photo {gt.file_name!r}: {error}") from error


def evaluate_labels(request: Request) -> Report:
    """Score pseudo labels against human ones.

    Raises:
        UsageError: a path or a choice is wrong.
        DataError: the files contradict each other.
    """
    labels = LabelledTwice.read(request.scored, request.workers, "scoring")
    taxonomy = Taxonomy.of(labels.gt, request.things, request.stuff)
    scored = labels.comparison(taxonomy, request)
    masks, source = _masks(labels, scored.table)
    fits = _fits(request, scored)
    if request.picture:
        draw_clusters(scored, request.policies[0], request.picture)
    return Report.of(
        fits,
        request.policies,
        request.seeds,
        masks=class_agnostic_scores(scored.table, masks, source, request.backend),
        name=str(request.scored.pseudo),
        gt=str(request.scored.gt),
        only_gt=labels.pairing.only_gt,
        only_pseudo=labels.pairing.only_pseudo,
    )


def _fits(request: Request, scored: Comparison) -> list[Fit]:
    """The ways to fit that are asked for; a matching to save is saved on the way."""
    if request.matching:
        return [SavedFit(scored, load_matching(request.matching, scored), str(request.matching))]
    fits: list[Fit] = [SetFit(scored, scored)]
    name = str(request.scored.pseudo)
    if request.fit_on:
        other = LabelledTwice.read(request.fit_on, request.workers, "fitting")
        classes = Taxonomy.of(other.gt, request.things, request.stuff)
        name = str(request.fit_on.pseudo)
        fitted = other.comparison(classes.aligned_with(scored.taxonomy, str(other.gt.json_file)), request)
        fits = [SetFit(scored, fitted, name, "_transferred")]
    if request.save_matching:
        save_matching(request.save_matching, fits[0].fitted, request.policies, name)
    return [*fits, FoldFit(scored, request.folds)] if request.folds else fits


def _masks(labels: LabelledTwice, table: SetTable) -> tuple[Detections, str]:
    """All masks of the pseudo labels and where they come from: ``instances.json``, else the things of the PNGs.

    Raises:
        DataError: ``instances.json`` does not fit the photos.
    """
    instances = read_instances(labels.pseudo)
    if instances is None:
        codes = [code for image in labels.images for code in image.pred_codes]
        return Detections(table.pred, codes), f"panoptic PNGs, for want of {INSTANCES_JSON}"
    entries = [
        (index, entry, _code(entry, photo))
        for index, (_, photo) in enumerate(labels.pairing.pairs)
        for entry in instances[photo.image_id]
    ]
    rows = np.zeros(len(entries), SEGMENT)
    rows["image"] = [index for index, _, _ in entries]
    rows["score"] = [entry["score"] for _, entry, _ in entries]
    codes = [code for _, _, code in entries]
    rows["box"] = boxes_of(codes)
    return Detections(rows, codes), INSTANCES_JSON


def _code(entry: Mapping[str, Any], photo: LabelledPhoto) -> dict[str, Any]:
    """The run-length code of an annotation, checked and compressed."""
    name = f"{INSTANCES_JSON}: annotation {entry.get('id')} of {photo.file_name!r}"
    if not math.isfinite(entry["score"]):
        raise DataError(f"{name} has the score {entry['score']}, which is no number")
    try:
        code = compressed(entry["segmentation"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} has no run-length code for its mask: {type(error).__name__} {error}") from error
    height, width = code["size"]
    if (height, width) != (photo.height, photo.width):
        raise DataError(f"{name} is {width} x {height} pixels, its photo {photo.width} x {photo.height}")
    return code
