"""The whole evaluation of a directory of pseudo labels, from paths to a report: all of ``tools/evaluate_pseudo.py``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from u2seg.errors import UsageError, lookup
from u2seg.evaluation.comparison import Comparison, VoteThresholds
from u2seg.evaluation.dataset import Pairing, PanopticSet, pair_images, read_panoptic
from u2seg.evaluation.fitting import Fit, FoldFit, OtherFit, SavedFit, SelfFit
from u2seg.evaluation.masks import score_masks
from u2seg.evaluation.matching import DEFAULT_POLICIES, RULES
from u2seg.evaluation.overlap import ImageOverlap, OverlapReader, measure
from u2seg.evaluation.picture import draw_clusters
from u2seg.evaluation.report import Report
from u2seg.evaluation.saved import load_matching, save_matching
from u2seg.evaluation.taxonomy import Taxonomy

PHOTOS_WORTH_WORKERS = 400
"""Below so many photos, starting worker processes takes longer than it saves."""


class Counter(Protocol):
    """Something to tell that one more photo is done."""

    def advance(self) -> None: ...


class NoProgress:
    """Says nothing."""

    def advance(self) -> None:
        """Take note of one more photo."""


ProgressOf = Callable[[str, int], AbstractContextManager[Counter]]
"""Given a title and a number of photos, something that counts them while it is open."""


def _silent(title: str, total: int) -> AbstractContextManager[Counter]:
    return nullcontext(NoProgress())


@dataclass(frozen=True)
class LabelPaths:
    """Where pseudo labels and the human labels of the same photos lie."""

    pseudo: Path
    """Directory with ``panoptic.json``, ``panoptic/`` and perhaps ``instances.json``."""
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
    stuff: str = "supercategory"
    votes: VoteThresholds = field(default_factory=VoteThresholds)
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


def evaluate_labels(request: Request, progress: ProgressOf = _silent) -> Report:
    """Score pseudo labels against human ones.

    Raises:
        UsageError: a path or a choice is wrong.
        DataError: the files contradict each other.
    """
    for policy in request.policies:
        lookup("matching policy", policy, RULES)
    if request.seeds < 0:
        raise UsageError(f"--seeds takes 0 or more runs of the chance control, not {request.seeds}")
    if request.fit_on and request.matching:
        raise UsageError("--fit-on and --matching both say where the matching comes from; give one")
    if request.matching and (request.folds or request.save_matching):
        raise UsageError("--matching fits nothing, so --folds and --save-matching can't go with it")
    gt, pseudo = _read(request.scored)
    taxonomy = Taxonomy.of(gt, request.things, request.stuff)
    pairing = pair_images(gt, pseudo)
    images = _overlaps(pairing, gt, pseudo, request, progress, "scoring", with_runs=True)
    scored = Comparison.of(images, pseudo, taxonomy, request.votes)
    things = frozenset(pseudo.clusters(True))
    masks = score_masks(pairing.pairs, images, request.scored.pseudo / "instances.json", things, request.backend)
    fits = _fits(request, scored, taxonomy, progress)
    if request.picture:
        draw_clusters(scored, request.policies[0], request.picture)
    return Report.of(
        scored,
        fits,
        request.policies,
        request.seeds,
        masks=masks,
        name=str(request.scored.pseudo),
        gt=str(request.scored.gt),
        only_gt=pairing.only_gt,
        only_pseudo=pairing.only_pseudo,
    )


def _read(paths: LabelPaths) -> tuple[PanopticSet, PanopticSet]:
    if not paths.pseudo.is_dir():
        raise UsageError(f"there is no directory {paths.pseudo}")
    pseudo_json = paths.pseudo / "panoptic.json"
    if not pseudo_json.is_file():
        raise UsageError(f"{paths.pseudo} holds no panoptic.json; is it the --output of tools/generate_pseudo.py?")
    return read_panoptic(paths.gt, paths.gt_dir), read_panoptic(pseudo_json, paths.pseudo / "panoptic")


def _overlaps(
    pairing: Pairing,
    gt: PanopticSet,
    pseudo: PanopticSet,
    request: Request,
    progress: ProgressOf,
    title: str,
    with_runs: bool,
) -> list[ImageOverlap]:
    reader = OverlapReader(frozenset(gt.clusters(True)), frozenset(pseudo.clusters(True)), with_runs)
    few = len(pairing.pairs) < PHOTOS_WORTH_WORKERS
    workers = request.workers or (1 if few else min(os.cpu_count() or 1, 8))
    with progress(title, len(pairing.pairs)) as counter:
        return measure(pairing.pairs, reader, workers, counter.advance)


def _fits(request: Request, scored: Comparison, taxonomy: Taxonomy, progress: ProgressOf) -> list[Fit]:
    """The ways to fit that are asked for; a matching to save is saved on the way."""
    if request.matching:
        saved = load_matching(request.matching, scored)
        return [SavedFit(scored, saved, str(request.matching))]
    fits: list[Fit] = []
    learnt, name = scored, str(request.scored.pseudo)
    if request.fit_on:
        gt, pseudo = _read(request.fit_on)
        other = Taxonomy.of(gt, request.things, request.stuff).aligned_with(taxonomy, gt.name)
        images = _overlaps(pair_images(gt, pseudo), gt, pseudo, request, progress, "fitting", with_runs=False)
        learnt, name = Comparison.of(images, pseudo, other, request.votes), str(request.fit_on.pseudo)
        fits.append(OtherFit(scored, learnt, name))
    else:
        fits.append(SelfFit(scored))
    if request.folds:
        fits.append(FoldFit(scored, request.folds))
    if request.save_matching:
        save_matching(request.save_matching, learnt, request.policies, name)
    return fits
