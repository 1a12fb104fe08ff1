"""The config keys of evaluation, under ``TEST``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def add_evaluation_config(cfg: CfgNode) -> None:
    """Add the keys, with their defaults, to Detectron2's config ``cfg``; again, it does nothing."""
    if "MATCHING" in cfg.TEST:
        return
    node = type(cfg)
    # Entry of u2seg.evaluation.evaluator.U2SEG_EVALUATORS.
    cfg.TEST.EVALUATOR = "HungarianPanopticEvaluator"
    cfg.TEST.MATCHING = matching = node()
    # How clusters are matched to classes, see u2seg.evaluation.matching; all in one pass.
    matching.POLICIES = ("many_to_one", "one_to_one", "one_to_one_then_majority", "u2seg_paper")
    # Human classes as they are ("category") or joined ("supercategory"); the paper scores COCO's 80 + 15.
    matching.THINGS = "category"
    matching.STUFF = "supercategory"
    # Fit nothing on the set that is scored: a file (matching.json of an earlier run), or a dataset that stands before
    # this one in DATASETS.TEST. "" fits on the set itself, which flatters.
    matching.FIT_ON = ""
    # 2 or more: also the figures of matchings fitted on the other folds of the same set.
    matching.FOLDS = 0
    # Runs of the chance control; 0 is none.
    matching.SEEDS = 3
    # When a prediction votes for a class under u2seg_paper: IoU with a human box, its score, IoU of stuff masks.
    matching.BOX_IOU = 0.7
    matching.SCORE = 0.6
    matching.STUFF_IOU = 0.15
