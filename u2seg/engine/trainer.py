"""Detectron2's trainer with exact resume, safe checkpoints, datasets named by path, and an end at the first NaN."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, defaults
from detectron2.engine.hooks import CallbackHook
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.registry import Registry
from fvcore.common.config import CfgNode

from u2seg.data.datasets import register_datasets, set_class_counts
from u2seg.data.loader import TrainLoader, build_train_loader
from u2seg.data.mapper import build_mapper
from u2seg.engine.checkpoint import U2SegCheckpointer, class_counts_from_weights
from u2seg.engine.optimizer import build_optimizer
from u2seg.engine.output_dir import newest_checkpoint, occupy
from u2seg.errors import DataError, U2SegError, UsageError, lookup
from u2seg.evaluation.evaluator import build_evaluator
from u2seg.modeling.name_head import fit_names
from u2seg.runtime import track

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Losses = dict[str, torch.Tensor]

TRAINERS = Registry("TRAINERS")
"""Subclasses of `Trainer`; named by ``SOLVER.TRAINER_NAME``."""


def trainer_class(cfg: CfgNode) -> type[Trainer]:
    """The trainer that ``SOLVER.TRAINER_NAME`` names, or a UsageError with the nearest name."""
    return lookup("trainer (SOLVER.TRAINER_NAME)", cfg.SOLVER.TRAINER_NAME, dict(TRAINERS))


class Steps(SimpleTrainer):
    """Detectron2's steps. Mixed precision is float16 with scaled losses on GPUs, bfloat16 on CPUs.

    A NaN or infinite loss anywhere ends in one `DataError` in all processes, before the weights change. Torch is seeded
    before each step by the run's seed, the step and the process, and nothing that happened before.
    """

    def __init__(
        self, model: torch.nn.Module, data_loader: TrainLoader, optimizer: Any, mixed_precision: bool, seed: int
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.seed = data_loader.sampler.seed = seed
        self.device = next(model.parameters()).device
        on_gpu = self.device.type == "cuda"
        dtype = torch.float16 if on_gpu else torch.bfloat16  # bfloat16 has float32's range, so no loss is scaled
        self._autocast = functools.partial(torch.autocast, self.device.type, dtype, mixed_precision)
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=mixed_precision and on_gpu)

    def run_step(self) -> None:
        """One step; only the forward pass is in mixed precision."""
        words = np.random.SeedSequence([self.seed, self.iter, comm.get_rank()]).generate_state(1)
        torch.manual_seed(int(words[0]))  # the model samples regions
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        losses, reason = self._losses(batch)
        broken = torch.tensor(bool(reason), dtype=torch.int32, device=self.device)
        if comm.get_world_size() > 1:  # whoever went on alone would wait for the others' gradients
            torch.distributed.all_reduce(broken, torch.distributed.ReduceOp.MAX)
        if broken:
            raise DataError(self._describe(batch, reason))
        self.optimizer.zero_grad()
        total: Any = sum(losses.values())
        self.grad_scaler.scale(total).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _losses(self, batch: list[Sample]) -> tuple[Losses, str]:
        """Losses of ``batch``, and what is wrong with them, if anything."""
        try:
            with self._autocast():
                losses = self.model(batch)
        except FloatingPointError as error:  # Detectron2's, of boxes that are not finite
            return {}, str(error).splitlines()[0].rstrip("!.")
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss).all()]
        return losses, f"{', '.join(bad)} became NaN or infinite" if bad else ""

    @torch.no_grad()
    def _describe(self, batch: list[Sample], reason: str) -> str:
        """One message for all processes: reasons, and photos of the batches of those where a loss is not finite."""
        suspects = batch
        if comm.get_world_size() == 1:  # elsewhere a synchronised layer would wait for the others
            suspects = [sample for sample in batch if self._losses([sample])[1]] or batch
        names = [str(sample.get("file_name", "a photo without a name")) for sample in suspects]
        reports = [report for report in comm.all_gather((reason, names)) if report[0]]
        reasons = ", ".join(dict.fromkeys(reason for reason, _ in reports))
        photos = [name for _, names in reports for name in names]
        culprit = f"photo {photos[0]}" if len(photos) == 1 else f"one of the photos {', '.join(photos)}"
        return f"{reasons}, at iteration {self.iter}, on {culprit}"

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with the scale of the losses, and the seed, which a run without ``SEED`` has drawn."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self.seed = self.data_loader.sampler.seed = state_dict["seed"]
        if state_dict.get("grad_scaler"):  # empty where losses were not scaled
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


@TRAINERS.register()
class Trainer(DefaultTrainer):
    """Trains what a config describes; on a resumed run, batch and draws of each step are those of an unbroken run.

    A subclass may train on another set: its `build_train_loader` gives what `u2seg.data.loader.build_seeded_loader`
    makes of any list of entries and a function that maps one.
    """

    needs_class_counts = True
    """Whether the model can't be built before K and S are known."""
    build_train_loader = staticmethod(build_train_loader)
    build_optimizer = staticmethod(build_optimizer)
    build_evaluator = staticmethod(build_evaluator)

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything; ``cfg`` has its datasets registered and its class counts set.

        Raises:
            UsageError: numbers of the config do not fit each other.
        """
        logging.getLogger("detectron2.engine.train_loop").addFilter(_has_traceback_to_show)
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference and cfg.SOLVER.IMS_PER_BATCH % reference:
            raise UsageError(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is no multiple of SOLVER.REFERENCE_WORLD_SIZE "
                f"{reference}; set the latter to 0 for a batch that does not follow the number of GPUs"
            )
        with _distributed_on_cpu() if cfg.MODEL.DEVICE == "cpu" else contextlib.nullcontext():
            super().__init__(cfg)
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self._trainer = Steps(self.model, self.data_loader, self.optimizer, cfg.SOLVER.AMP.ENABLED, seed)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, which save through a checkpointer of ours, and `finish_model` before it."""
        self.checkpointer = U2SegCheckpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        hooks = super().build_hooks()
        hooks.insert(3, CallbackHook(after_step=Trainer._after_step))  # behind precise BN
        return hooks

    def _after_step(self) -> None:
        if self.iter + 1 == self.cfg.SOLVER.MAX_ITER:
            self.finish_model()

    def finish_model(self) -> None:
        """Fit what is fitted once, between the last step and the last checkpoint: here, the names of things."""
        node = self.cfg.MODEL.U2SEG
        if node.NAMES_FROM and node.NAMES_FIT_ITER:
            batches = itertools.islice(self.build_train_loader(self.cfg), node.NAMES_FIT_ITER)
            fit_names(self.model, track(batches, "names", node.NAMES_FIT_ITER, "step"))

    @classmethod
    def complete_config(cls, cfg: CfgNode, eval_only: bool = False, resume: bool = False) -> None:
        """Fill in what only the data and the checkpoint know: dataset names, class counts, and the weights to score.

        A run that will train keeps others out of ``OUTPUT_DIR`` from here on.

        Raises:
            UsageError: there is nothing to score or nothing to score it on, or the class counts are unknown; or another
                run trains in ``OUTPUT_DIR``.
        """
        if not eval_only and comm.is_main_process():
            occupy(os.path.realpath(cfg.OUTPUT_DIR))
        register_datasets(cfg, train=not eval_only)
        if eval_only:
            if not cfg.DATASETS.TEST:
                raise UsageError("--eval-only needs DATASETS.TEST, the directory of a labelled dataset; it is empty")
            cfg.MODEL.WEIGHTS = (newest_checkpoint(cfg.OUTPUT_DIR) if resume else "") or cfg.MODEL.WEIGHTS
            if not cfg.MODEL.WEIGHTS:
                raise UsageError(
                    "--eval-only needs a trained model: give MODEL.WEIGHTS, or --resume with a trained OUTPUT_DIR"
                )
        set_class_counts(cfg)
        if cls.needs_class_counts:
            class_counts_from_weights(cfg)

    @classmethod
    def evaluate(cls, cfg: CfgNode) -> dict[str, Any]:
        """Score ``MODEL.WEIGHTS`` on ``DATASETS.TEST``.

        Raises:
            DataError: the weights are no trained model of this config.
        """
        model = cls.build_model(cfg)
        U2SegCheckpointer(model, save_dir=cfg.OUTPUT_DIR).load_trained(cfg.MODEL.WEIGHTS)
        results = cls.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the newest whole checkpoint of ``OUTPUT_DIR`` if asked to; without one, load the weights.

        Raises:
            DataError: there are checkpoints, but none is whole.
        """
        newest = newest_checkpoint(self.cfg.OUTPUT_DIR) if resume else ""
        if newest:
            self.checkpointer.load(newest)
            self.start_iter = self.iter + 1
        else:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
        self.data_loader.sampler.start_batch = self.start_iter
        if resume and self.start_iter >= self.max_iter:
            logger.warning(
                "the checkpoint is at iteration %d of %d: nothing is left to train", self.start_iter, self.max_iter
            )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The loader of one dataset of ``DATASETS.TEST``."""
        return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False))


@contextlib.contextmanager
def _distributed_on_cpu() -> Iterator[None]:
    """Let `DefaultTrainer` spread a model over CPU processes, for which it would name a GPU."""
    original = defaults.create_ddp_model
    defaults.create_ddp_model = functools.partial(original, device_ids=None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*GradScaler")  # of Detectron2's mixed precision, which ours replaces
            yield
    finally:
        defaults.create_ddp_model = original


def _has_traceback_to_show(record: logging.LogRecord) -> bool:
    """Keep Detectron2's training loop from logging the traceback of an error that ends in one line anyway."""
    return not (record.exc_info and isinstance(record.exc_info[1], U2SegError))
