"""Detectron2's trainer with exact resume, safe checkpoints, and datasets named by their path."""

from __future__ import annotations

import importlib.util
import logging
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from detectron2.utils.registry import Registry

from u2seg.data.loader import TrainLoader, build_train_loader
from u2seg.data.mapper import DATASET_MAPPERS
from u2seg.engine.checkpoint import U2SegCheckpointer
from u2seg.engine.steps import BFloat16Steps, MixedPrecisionSteps, PlainSteps
from u2seg.errors import UsageError, lookup

if TYPE_CHECKING:
    from detectron2.evaluation import DatasetEvaluator
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

TRAINERS = Registry("TRAINERS")
"""Trainers by the name that ``SOLVER.TRAINER_NAME`` gives; a plugin adds its own in `u2seg_register_detectron2`."""


def trainer_class(cfg: CfgNode) -> type[Trainer]:
    """The trainer that ``SOLVER.TRAINER_NAME`` names.

    Raises:
        UsageError: there is no such trainer.
    """
    return lookup("trainer (SOLVER.TRAINER_NAME)", cfg.SOLVER.TRAINER_NAME, dict(TRAINERS))


SCALED = ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "STEPS", "WARMUP_ITERS", "CHECKPOINT_PERIOD")
"""Keys of ``SOLVER`` that follow the number of processes."""


class Reseed(HookBase):
    """Seeds torch before each step by the run's seed, the step and the process, and nothing that happened before."""

    def __init__(self, seed: int, loader: TrainLoader) -> None:
        self.loader = loader
        self.load_state_dict({"seed": seed})

    def before_step(self) -> None:
        """Seed torch's generators, from which the model samples regions."""
        words = np.random.SeedSequence([self.seed, self.trainer.iter, comm.get_rank()]).generate_state(1)
        torch.manual_seed(int(words[0]))

    def state_dict(self) -> dict[str, int]:
        """The seed, so that a run without ``SEED`` goes on with the one that it drew."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up a seed, here and in the loader."""
        self.seed = self.loader.sampler.seed = int(state["seed"])


@TRAINERS.register()
class Trainer(DefaultTrainer):
    """Trains what a config describes; on a resumed run, batch and draws of each step are those of an unbroken run."""

    needs_class_counts = True
    """Whether the model can't be built before K and S are known."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything; ``cfg`` has its datasets registered and its class counts set.

        Raises:
            UsageError: numbers of the config do not fit each other.
        """
        TrainerBase.__init__(self)
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference and cfg.SOLVER.IMS_PER_BATCH % reference:
            raise UsageError(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is no multiple of SOLVER.REFERENCE_WORLD_SIZE "
                f"{reference}; set the latter to 0 for a batch that does not follow the number of GPUs"
            )
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        on_gpu = next(model.parameters()).is_cuda
        ddp_options = {} if on_gpu else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **ddp_options)
        mixed = MixedPrecisionSteps if on_gpu else BFloat16Steps
        steps = mixed if cfg.SOLVER.AMP.ENABLED else PlainSteps
        self._trainer = steps(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = U2SegCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.register_hooks([Reseed(seed, loader), *self.build_hooks()])

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Detectron2's rule for a number of processes other than ``SOLVER.REFERENCE_WORLD_SIZE``; says what it changed.

        Batch and learning rate grow with the processes; iterations, steps, warm-up and periods shrink.
        """
        scaled = DefaultTrainer.auto_scale_workers(cfg, num_workers)
        keys = [*(f"SOLVER.{key}" for key in SCALED), "TEST.EVAL_PERIOD"]
        values = [(key, _value(cfg, key), _value(scaled, key)) for key in keys]
        changes = [f"{key} {before} -> {after}" for key, before, after in values if before != after]
        if changes:
            reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
            logger.info(
                "%d process%s where SOLVER.REFERENCE_WORLD_SIZE is %d, so: %s (REFERENCE_WORLD_SIZE 0 changes nothing)",
                num_workers,
                "" if num_workers == 1 else "es",
                reference,
                ", ".join(changes),
            )
        return scaled

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of ``OUTPUT_DIR`` if asked to and there is one; else load the weights."""
        super().resume_or_load(resume)
        self.data_loader.sampler.start_batch = self.start_iter
        if resume and self.start_iter >= self.max_iter:
            logger.warning(
                "the checkpoint is at iteration %d of %d: nothing is left to train", self.start_iter, self.max_iter
            )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """The loader of ``DATASETS.TRAIN``."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The loader of one dataset of ``DATASETS.TEST``."""
        mapper = lookup("dataset mapper", cfg.INPUT.DATASET_MAPPER_NAME, dict(DATASET_MAPPERS))(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator that the config names."""
        from u2seg.evaluation.evaluator import build_evaluator

        return build_evaluator(cfg, dataset_name)

    def build_writers(self) -> list[EventWriter]:
        """Progress on the console, ``metrics.json``, and TensorBoard where it is installed."""
        writers: list[EventWriter] = [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(f"{self.cfg.OUTPUT_DIR}/metrics.json"),
        ]
        if importlib.util.find_spec("tensorboard"):
            from detectron2.utils.events import TensorboardXWriter

            writers.append(TensorboardXWriter(self.cfg.OUTPUT_DIR))
        return writers


def _value(cfg: CfgNode, key: str) -> Any:
    group, name = key.split(".")
    return cfg[group][name]
