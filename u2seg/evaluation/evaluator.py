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
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry

from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.detection import KINDS, class_agnostic_scores
from u2seg.evaluation.fitting import MATCHING_FILE, directory_name, save_matching, ways_to_fit
from u2seg.evaluation.matching import U2SEG_PAPER, Scoring, Taxonomy
from u2seg.evaluation.outputs import ModelImage, join_outputs, read_output
from u2seg.evaluation.report import as_json, draw_clusters, make_report, render
from u2seg.evaluation.tables import rows_of_images, warn_of_rows
from u2seg.files import write_bytes, write_json
from u2seg.panoptic import read_panoptic
from u2seg.structures import LabelSpace

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
    evaluator = lookup("evaluator (TEST.EVALUATOR)", cfg.TEST.EVALUATOR, dict(U2SEG_EVALUATORS))
    return evaluator(cfg, dataset_name)


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
        scoring: Scoring,
        output_dir: Path | None = None,
        distributed: bool = True,
    ) -> None:
        """Read the human labels of the dataset ``name``: a COCO panoptic JSON and the folder of its PNGs.

        Classes of the model are those of ``space``; results, matching and picture go to ``output_dir``, if given; with
        ``distributed``, the photos of all processes are gathered.
        """
        self.name, self.space, self.scoring = name, space, scoring
        self.output_dir, self.distributed = output_dir, distributed
        self.gt = read_panoptic(panoptic_json, panoptic_root)
        self.taxonomy = Taxonomy.of(self.gt, scoring.things, scoring.stuff)
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
        """Arguments of the constructor."""
        metadata, matching = MetadataCatalog.get(dataset_name), cfg.TEST.MATCHING
        if not metadata.get("panoptic_json") or not metadata.get("panoptic_root"):
            raise UsageError(
                f"{dataset_name} has no panoptic labels to score against; name a dataset with panoptic.json"
            )
        results = Path(cfg.OUTPUT_DIR) / "inference"
        options = {key.lower(): value for key, value in matching.items() if key != "FIT_ON"}
        scoring = Scoring(**options, matching=_saved_matching(matching.FIT_ON, dataset_name, results))
        return {
            "name": dataset_name,
            "panoptic_json": metadata.panoptic_json,
            "panoptic_root": metadata.panoptic_root,
            "space": LabelSpace(cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1),
            "scoring": scoring,
            "output_dir": results / directory_name(dataset_name),
        }

    def reset(self) -> None:
        """Forget every photo."""
        self._images: list[ModelImage] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take in the outputs of a panoptic model (``panoptic_seg`` and, if it has them, ``instances``)."""
        with_regions = U2SEG_PAPER in self.scoring.policies
        for entry, output in zip(inputs, outputs, strict=True):
            key = entry["image_id"]
            if key not in self.gt.place:
                raise DataError(f"{self.gt.json_file} has no labels of image id {key!r} ({entry.get('file_name')})")
            photo = self.gt.photos[self.gt.place[key]]
            self._images.append(read_output(self.gt, photo, output, self.space, with_regions))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Match and score; on the main process, a dict of figures in percent for each policy, elsewhere None."""
        images = self._images
        if self.distributed:
            comm.synchronize()
            images = list(itertools.chain(*comm.gather(images)))
            if not comm.is_main_process():
                return None
        if not images:
            raise DataError(f"the model saw no photo of {self.name}")
        images.sort(key=lambda image: (isinstance(image.image_id, str), image.image_id))
        comparison = join_outputs(images, self.space, self.taxonomy, self.scoring)
        warn_of_rows(self.gt.json_file, comparison.table.gt)
        masks = {}
        if (rows := comparison.detections) is not None:
            masks = class_agnostic_scores(comparison.table, partial(rows_of_images, rows), "the model's detections")
        fits = ways_to_fit(self.scoring, comparison)
        report = make_report(self.name, str(self.gt.json_file), fits, masks)
        text = render(report, WORST_AND_BEST)
        logger.info("%s", text)
        if self.output_dir:
            write_json(self.output_dir / "results.json", as_json(report))
            write_bytes(self.output_dir / "results.txt", f"{text}\n".encode())
            save_matching(self.output_dir / MATCHING_FILE, comparison, self.scoring.policies, self.name)
            draw_clusters(comparison, self.scoring.policies[0], self.output_dir / "clusters.png")
            logger.info("results, matching and a picture of the clusters: %s", self.output_dir)
        return _as_results(report)


def _saved_matching(fit_on: str, dataset: str, results: Path) -> Path | None:
    """The file that ``TEST.MATCHING.FIT_ON`` names: itself, or what the evaluation of a dataset of that name left."""
    if not fit_on:
        return None
    file = Path(fit_on) if Path(fit_on).is_file() else results / directory_name(fit_on) / MATCHING_FILE
    # Other processes may come here before the main one has written the file.
    if comm.is_main_process() and not file.is_file():
        raise UsageError(
            f"TEST.MATCHING.FIT_ON {fit_on!r} is no saved matching, and there is none of a dataset of that name in "
            f"{results}: evaluate on it first, or name it before {dataset} in DATASETS.TEST"
        )
    return file


def _as_results(report: dict[str, Any]) -> OrderedDict[str, dict[str, float]]:
    """Figures by policy, each with its chance control, for Detectron2's logs and ``TEST.EXPECTED_RESULTS``."""
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for scores in report["policies"]:
        by_chance = {f"{name}_by_chance": value for name, value in scores["control_mean"].items()}
        results[scores["key"]] = scores["figures"] | by_chance
    results["class_agnostic"] = {
        f"{name}_{kind}": value
        for kind in ("one_class", *KINDS)
        for name, value in report["class_agnostic"].get(kind, {}).items()
    }
    return results
