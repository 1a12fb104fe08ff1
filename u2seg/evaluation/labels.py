"""The whole evaluation of a directory of pseudo labels, from paths to a report: all of ``tools/evaluate_pseudo.py``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.detection import class_agnostic_scores
from u2seg.evaluation.fitting import Fit
from u2seg.evaluation.matching import DEFAULT_POLICIES, RULES, VoteThresholds
from u2seg.evaluation.pairing import Pairing, pair_images
from u2seg.evaluation.picture import draw_clusters
from u2seg.evaluation.report import Report
from u2seg.evaluation.runs import boxes_of, encode_masks
from u2seg.evaluation.saved import load_matching, save_matching
from u2seg.evaluation.tables import SEGMENT, ImageTable, SetTable, compare_maps
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.panoptic import INSTANCES_JSON, LabelledPhoto, PanopticDataset, decode_mask, read_instances, read_panoptic
from u2seg.runtime import Progress, make_executor, run_in_order

PHOTOS_WORTH_WORKERS = 400
"""Below so many photos, starting worker processes takes longer than it saves."""


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
    thresholds: VoteThresholds = field(default_factory=VoteThresholds)
    fit_on: LabelPaths | None = None
    """Another labelled set to fit the matching on."""
    matching: Path | None = None
    """A saved matching to use instead."""
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
        for option, value in (("--seeds", self.seeds), ("--workers", self.workers)):
            if value < 0:
                raise UsageError(f"{option} takes 0 or more, not {value}")
        if self.fit_on and self.matching:
            raise UsageError("--fit-on and --matching both say where the matching comes from; give one")
        if self.matching and (self.folds or self.save_matching):
            raise UsageError("--matching fits nothing, so --folds and --save-matching can't go with it")


def evaluate_labels(request: Request) -> Report:
    """Score pseudo labels against human ones.

    Raises:
        UsageError: a path or a choice is wrong.
        DataError: the files contradict each other.
    """
    gt, pseudo, pairing = _read(request.scored)
    taxonomy = Taxonomy.of(gt, request.things, request.stuff)
    scored = _compare(gt, pseudo, pairing, taxonomy, request)
    detections, source = _masks(pseudo, pairing, scored.table)
    fits = _fits(request, scored)
    if request.picture:
        draw_clusters(scored, request.policies[0], request.picture)
    masks = class_agnostic_scores(scored.table, detections, source, request.backend)
    names = str(request.scored.pseudo), str(request.scored.gt)
    left_out = pairing.only_gt, pairing.only_pseudo
    return Report.of(*names, fits, request.policies, request.seeds, masks, *left_out)


def _read(paths: LabelPaths) -> tuple[PanopticDataset, PanopticDataset, Pairing]:
    for folder in (paths.pseudo, paths.gt_dir):
        if not folder.is_dir():
            raise UsageError(f"there is no directory {folder}")
    gt, pseudo = read_panoptic(paths.gt, paths.gt_dir), read_panoptic(paths.pseudo)
    return gt, pseudo, pair_images(gt, pseudo)


def _compare(
    gt: PanopticDataset, pseudo: PanopticDataset, pairing: Pairing, taxonomy: Taxonomy, request: Request
) -> Comparison:
    """Read all PNGs, in this process or in others."""
    few = len(pairing.pairs) < PHOTOS_WORTH_WORKERS
    workers = request.workers or (1 if few else min(os.cpu_count() or 1, 8))
    read_table = partial(_read_table, replace(gt, photos=()), replace(pseudo, photos=()))  # little to send to workers
    images = []
    with make_executor("process", workers, 1) as executor, Progress("comparing labels", len(pairing.pairs)) as progress:
        for table in run_in_order(executor, read_table, pairing.pairs, 32 * workers):
            images.append(table)
            progress.advance()
    things, stuff = (tuple(category.id for category in part) for part in (pseudo.things, pseudo.stuff))
    return Comparison(SetTable.join(images), taxonomy, things, stuff, request.thresholds, backend=request.backend)


def _read_table(gt: PanopticDataset, pseudo: PanopticDataset, pair: tuple[LabelledPhoto, LabelledPhoto]) -> ImageTable:
    try:
        maps = [labels.read_ids(photo) for labels, photo in zip((gt, pseudo), pair, strict=True)]
        return compare_maps(*maps, *(photo.segments for photo in pair))
    except DataError as error:
        raise DataError(f"photo {pair[0].file_name!r}: {error}") from error


def _fits(request: Request, scored: Comparison) -> list[Fit]:
    """The ways to fit that are asked for; a matching to save is saved on the way."""
    if request.matching:
        saved = load_matching(request.matching, scored)
        return [Fit(scored, str(request.matching), "_transferred", saved=saved)]
    fit, name = Fit(scored), str(request.scored.pseudo)
    if request.fit_on:
        gt, pseudo, pairing = _read(request.fit_on)
        classes = Taxonomy.of(gt, request.things, request.stuff).aligned_with(scored.taxonomy, str(gt.json_file))
        name, fitted = str(request.fit_on.pseudo), _compare(gt, pseudo, pairing, classes, request)
        fit = Fit(scored, name, "_transferred", fitted=fitted)
    if request.save_matching:
        save_matching(request.save_matching, fit.fitted or scored, request.policies, name)
    return [fit, Fit.on_folds(scored, request.folds)] if request.folds else [fit]


def _masks(pseudo: PanopticDataset, pairing: Pairing, table: SetTable) -> tuple[np.ndarray, str]:
    """All masks, `SEGMENT` (N,), and where they come from: ``instances.json``, else the things of the PNGs.

    Raises:
        DataError: ``instances.json`` does not fit the photos.
    """
    instances = read_instances(pseudo)
    if instances is None:
        return table.pred, f"panoptic PNGs, for want of {INSTANCES_JSON}"
    photos = enumerate(photo for _, photo in pairing.pairs)
    entries = [(index, photo, entry) for index, photo in photos for entry in instances[photo.image_id]]
    rows = np.zeros(len(entries), SEGMENT)
    rows["image"] = [index for index, _, _ in entries]
    rows["score"] = [entry["score"] for _, _, entry in entries]
    rows["code"] = codes = [_checked_code(entry, photo) for _, photo, entry in entries]
    rows["box"] = boxes_of(codes)
    return rows, INSTANCES_JSON


def _checked_code(entry: dict[str, Any], photo: LabelledPhoto) -> dict[str, Any]:
    """The run-length code of an annotation, compressed if it is not."""
    name = f"{INSTANCES_JSON}: annotation {entry.get('id')} of {photo.file_name!r}"
    if not math.isfinite(entry["score"]):
        raise DataError(f"{name} has the score {entry['score']}, which is no number")
    code = entry.get("segmentation")
    if not isinstance(code, dict) or not {"size", "counts"} <= code.keys():
        raise DataError(f"{name} has no run-length code for its mask")
    if list(code["size"]) != [photo.height, photo.width]:
        raise DataError(f"{name} is {code['size'][::-1]} pixels, its photo {[photo.width, photo.height]}")
    return encode_masks(decode_mask(code)[None])[0] if isinstance(code["counts"], list) else code
