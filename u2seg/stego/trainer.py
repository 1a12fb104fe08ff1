"""Trains a `CodeModel`: Detectron2's loop over crops without labels, two learning rates, export, scores.

Shapes: ``n`` crops; ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch.nn.parallel import DistributedDataParallel

from u2seg.config import part_args
from u2seg.engine.optimizer import parameter_groups
from u2seg.engine.trainer import TRAINERS, Trainer
from u2seg.errors import UsageError
from u2seg.files import write_json
from u2seg.panoptic import read_panoptic
from u2seg.pseudo.parts import Part, build_once
from u2seg.pseudo.recipe import Recipe
from u2seg.stego.crops import build_crop_loader
from u2seg.stego.evaluation import score_segmenter
from u2seg.stego.head import write_checkpoint
from u2seg.stego.model import CodeModel

logger = logging.getLogger(__name__)

FINAL = "stuff_final.pth"


def unwrap(model: torch.nn.Module) -> CodeModel:
    """The model itself, out of what spreads it over processes."""
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    if not isinstance(bare, CodeModel):
        raise UsageError(f"SOLVER.TRAINER_NAME StuffTrainer trains STEGO and its kin, not {type(bare).__name__}")
    return bare


@TRAINERS.register()
class StuffTrainer(Trainer):
    """Trains a `CodeModel`; writes ``stuff_final.pth``, which ``U2SEG.STUFF`` takes."""

    needs_class_counts = False
    build_train_loader = staticmethod(build_crop_loader)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Adam (as STEGO's official code) with the decay and clipping of ``SOLVER``; ``STEGO.PROBE_LR`` for classes."""
        groups = parameter_groups(cfg, model, overrides={"centres": {"lr": cfg.STEGO.PROBE_LR}})
        return maybe_add_gradient_clipping(cfg, torch.optim.Adam)(groups, lr=cfg.SOLVER.BASE_LR)

    def finish_model(self) -> None:
        """Fit the class centres anew."""
        if self.cfg.STEGO.REFIT_PROBE:
            unwrap(self.model).refit(self.data_loader.mapper, max(self.cfg.SEED, 0), self.cfg.STEGO.REFIT_WHITEN)

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume at the last checkpoint; a run from the start first learns what its loss needs of the features."""
        super().resume_or_load(resume)
        if self.start_iter:
            return
        model = unwrap(self.model)
        records = model.prepare(self.data_loader.mapper, max(self.cfg.SEED, 0))
        if comm.get_world_size() > 1:
            for buffer in model.buffers():  # what is learnt may differ in the last digit
                torch.distributed.broadcast(buffer, 0)
        for name, record in records.items() if comm.is_main_process() else ():
            write_json(Path(self.cfg.OUTPUT_DIR) / f"{name}.json", record)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Write ``stuff_final.pth``; where ``DATASETS.TEST`` has labels, score the clusters."""
        scores: dict[str, Any] = {}
        if comm.is_main_process():
            path, method = Path(cfg.OUTPUT_DIR) / FINAL, unwrap(model).method
            write_checkpoint(path, unwrap(model).export())
            logger.info("stuff segmenter: %s (U2SEG.STUFF.NAME %s)", path, method)
            for name in cfg.DATASETS.TEST:
                scores[name] = score_checkpoint(cfg, path, method, name)
        comm.synchronize()
        return scores


def score_checkpoint(cfg: CfgNode, path: Path, method: str, name: str) -> dict[str, float]:
    """`cluster_scores`, percent, of the checkpoint at ``path`` on the registered dataset ``name``."""
    recipe, device, metadata = Recipe.from_config(cfg), cfg.MODEL.DEVICE, MetadataCatalog.get(name)
    arguments = {**part_args({"NAME": method, "ARGS": cfg.U2SEG.STUFF.ARGS}), "checkpoint": str(path)}
    stuff = Part.from_config("stuff segmenter", {"NAME": method, "ARGS": {method: arguments}})
    scores = score_segmenter(
        recipe.build(stuff, device),
        build_once(recipe.stuff_features, device=device),
        recipe.stuff_refine.build(),
        read_panoptic(metadata.panoptic_json, metadata.panoptic_root, metadata.image_root),
    )
    logger.info("%s: %s (one_to_one, %%)", name, ", ".join(f"{key} {value:.1f}" for key, value in scores.items()))
    return scores
