"""A model against human labels, in Detectron2's evaluation loop: one pass, any number of processes, every policy.

Nothing is read from or written to the working directory, no PNG is written; each process keeps one small table and
the run-length codes of a photo's detections, and the main process matches and scores them all.

Shapes: ``H, W`` photo pixels; ``N`` detections of a photo; ``P`` its predicted segments.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from fvcore.common.registry import Registry

from u2seg.config.training import add_evaluation_keys
from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.comparison import Comparison, VoteThresholds
from u2seg.evaluation.dataset import LabelledImage, read_panoptic
from u2seg.evaluation.detections import Detections, labelled_objects
from u2seg.evaluation.fitting import Fit, FoldFit, SavedFit, SelfFit
from u2seg.evaluation.masks import MaskScores, score_objects
from u2seg.evaluation.matching import RULES, U2SEG_PAPER
from u2seg.evaluation.outputs import ComparedImage, OutputReader
from u2seg.evaluation.picture import draw_clusters
from u2seg.evaluation.report import Report, as_json, render
from u2seg.evaluation.saved import (
    MATCHING_FILE,
    directory_name,
    load_matching,
    matching_file,
    save_matching,
    write_json,
)
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.structures import LabelSpace

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

U2SEG_EVALUATORS = Registry("U2SEG_EVALUATORS")
U2SEG_EVALUATORS.__doc__ = "Evaluators, called with (cfg, dataset_name) and named by TEST.EVALUATOR."

WORST_AND_BEST = 10
"""Classes of each kind in the log."""


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator that ``TEST.EVALUATOR`` names, for a registered dataset.

    Raises:
        UsageError: there is no such evaluator, or it can't be had for this dataset.
    """
    return lookup("evaluator (TEST.EVALUATOR)", _with_defaults(cfg).TEST.EVALUATOR, dict(U2SEG_EVALUATORS))(
        cfg, dataset_name
    )


def _with_defaults(cfg: CfgNode) -> CfgNode:
    if "MATCHING" in cfg.TEST:
        return cfg
    full = cfg.clone()
    full.defrost()
    add_evaluation_keys(full)
    return full


@U2SEG_EVALUATORS.register()
class HungarianPanopticEvaluator(DatasetEvaluator):
    """PQ, AP, pixel accuracy and mIoU of a model whose classes are clusters, after matching them to human classes."""

    @configurable
    def __init__(
        self,
        *,
        name: str,
        panoptic_json: str,
        panoptic_root: str,
        space: LabelSpace,
        policies: Sequence[str],
        things: str = "category",
        stuff: str = "supercategory",
        votes: VoteThresholds = VoteThresholds(),  # noqa: B008  frozen
        folds: int = 0,
        seeds: int = 3,
        fit_on: Path | None = None,
        output_dir: Path | None = None,
        distributed: bool = True,
    ) -> None:
        """Read the human labels.

        Args:
            name: of the dataset, for messages.
            panoptic_json: human labels in COCO panoptic format.
            panoptic_root: the folder of their PNGs.
            space: the model's classes; ``category_id`` of its clusters is as there.
            policies: see `u2seg.evaluation.matching`.
            things: level of human thing classes, see `Taxonomy.of`.
            stuff: level of human stuff classes.
            votes: thresholds of ``u2seg_paper``.
            folds: 2 or more to give figures of matchings fitted on other folds, too.
            seeds: runs of the chance control.
            fit_on: a saved matching to use instead of fitting one.
            output_dir: where results, matching and picture go; nowhere if None.
            distributed: gather from all processes.

        Raises:
            U2SegError: labels or choices can't be taken.
        """
        for policy in policies:
            lookup("matching policy (TEST.MATCHING.POLICIES)", policy, RULES)
        self.name, self.space, self.policies = name, space, tuple(policies)
        self.votes, self.folds, self.seeds = votes, folds, seeds
        self.fit_on, self.output_dir, self.distributed = fit_on, output_dir, distributed
        self.gt = read_panoptic(panoptic_json, panoptic_root)
        self.taxonomy = Taxonomy.of(self.gt, things, stuff)
        self._labels: dict[Any, LabelledImage] = {label.image_id: label for label in self.gt.labels}
        self._read = OutputReader(frozenset(self.gt.clusters(True)), space, U2SEG_PAPER in self.policies)
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
        """Arguments of the constructor."""
        cfg = _with_defaults(cfg)
        metadata, matching = MetadataCatalog.get(dataset_name), cfg.TEST.MATCHING
        if not metadata.get("panoptic_json") or not metadata.get("panoptic_root"):
            raise UsageError(
                f"{dataset_name} has no panoptic labels to score against; name a dataset with panoptic.json"
            )
        results = Path(cfg.OUTPUT_DIR) / "inference"
        return {
            "name": dataset_name,
            "panoptic_json": metadata.panoptic_json,
            "panoptic_root": metadata.panoptic_root,
            "space": LabelSpace(cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1),
            "policies": matching.POLICIES,
            "things": matching.THINGS,
            "stuff": matching.STUFF,
            "votes": VoteThresholds(matching.BOX_IOU, matching.SCORE, matching.STUFF_IOU),
            "folds": matching.FOLDS,
            "seeds": matching.SEEDS,
            "fit_on": _fitted(matching.FIT_ON, dataset_name, results) if matching.FIT_ON else None,
            "output_dir": results / directory_name(dataset_name),
        }

    def reset(self) -> None:
        """Forget every photo."""
        self._done: list[ComparedImage] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take in the outputs of a panoptic model (``panoptic_seg`` and, if it has them, ``instances``)."""
        for given, output in zip(inputs, outputs, strict=True):
            key = given["image_id"]
            if key not in self._labels:
                raise DataError(f"{self.gt.name} has no labels of image id {key!r} ({given.get('file_name')})")
            self._done.append(self._read(self._labels[key], output))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Match and score; on the main process, a dict of figures in percent for each policy, elsewhere None."""
        done = self._done
        if self.distributed:
            comm.synchronize()
            done = list(itertools.chain(*comm.gather(done)))
            if not comm.is_main_process():
                return None
        if not done:
            raise DataError(f"the model saw no photo of {self.name}")
        comparison = self._comparison(sorted(done, key=lambda photo: (isinstance(photo.image_id, str), photo.image_id)))
        report = self._report(comparison, self._class_agnostic(comparison))
        logger.info("%s", render(report, WORST_AND_BEST))
        if self.output_dir:
            self._write(comparison, report, self.output_dir)
        return _as_results(report)

    def _comparison(self, done: Sequence[ComparedImage]) -> Comparison:
        overlaps, detections = [photo.overlap for photo in done], None
        found = [photo.detections for photo in done if photo.detections is not None]
        regions = [photo.regions for photo in done if photo.regions is not None]
        if len(found) == len(done):
            labels = [self._labels[photo.image_id] for photo in done]
            sizes = [(label.height, label.width) for label in labels]
            codes = [code for overlap in overlaps for code in overlap.gt_runs]
            detections = Detections.join(found, codes, sizes)
        return Comparison.of_space(
            overlaps, self.space, self.taxonomy, self.votes, detections, regions if len(regions) == len(done) else None
        )

    def _class_agnostic(self, comparison: Comparison) -> MaskScores | None:
        """How well the detections find things, whatever their class; None if the model gives none."""
        found = comparison.detections
        if not found:
            return None
        one = np.zeros_like(comparison.gt_class), np.zeros(len(found), np.int64)
        objects = labelled_objects(comparison.overlaps, found, *one)
        return score_objects(objects, "the model's detections")

    def _report(self, comparison: Comparison, masks: MaskScores | None) -> Report:
        return Report.of(
            comparison, self._fits(comparison), self.policies, self.seeds, masks=masks, name=self.name, gt=self.gt.name
        )

    def _fits(self, comparison: Comparison) -> list[Fit]:
        if self.fit_on:
            return [SavedFit(comparison, load_matching(self.fit_on, comparison), str(self.fit_on))]
        return [SelfFit(comparison), *([FoldFit(comparison, self.folds)] if self.folds else [])]

    def _write(self, comparison: Comparison, report: Report, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", as_json(report))
        (folder / "results.txt").write_text(render(report, WORST_AND_BEST) + "\n", encoding="utf-8")
        save_matching(folder / MATCHING_FILE, comparison, self.policies, self.name)
        draw_clusters(comparison, self.policies[0], folder / "clusters.png")
        logger.info("results, matching and a picture of the clusters: %s", folder)


def _fitted(fit_on: str, dataset: str, results: Path) -> Path:
    """The saved matching that ``TEST.MATCHING.FIT_ON`` names."""
    file = matching_file(fit_on, results)
    if comm.is_main_process() and not file.is_file():  # others may come here before the main process has written it
        raise UsageError(
            f"TEST.MATCHING.FIT_ON {fit_on!r} is no saved matching, and there is none of a dataset of that name in "
            f"{results}: evaluate on it first, or name it before {dataset} in DATASETS.TEST"
        )
    return file


def _as_results(report: Report) -> OrderedDict[str, dict[str, float]]:
    """Figures by policy, each with its chance control, for Detectron2's logs and ``TEST.EXPECTED_RESULTS``."""
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for scores in report.scores:
        by_chance = {f"{name}_by_chance": value for name, value in scores.control.items()}
        results[scores.key] = {**scores.figures, **by_chance}
    agnostic = {f"{name}_one_class": value for name, value in report.one_class.items()}
    if report.masks:
        for kind in ("mask", "box"):
            agnostic |= {f"{name}_{kind}": value for name, value in getattr(report.masks, kind).items()}
    results["class_agnostic"] = agnostic
    return results
