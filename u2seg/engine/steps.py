"""Training steps in full or mixed precision that stop every process alike when a loss becomes NaN."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import torch
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils import comm

from u2seg.data.loader import TrainLoader
from u2seg.errors import DataError

Sample = dict[str, Any]
Losses = dict[str, torch.Tensor]


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
        losses, reason = self._losses(self.model, batch)
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

    def _losses(self, model: torch.nn.Module, batch: list[Sample]) -> tuple[Losses, str]:
        """Losses of ``batch``, and what is wrong with them, if anything."""
        try:
            with self._autocast():
                losses = model(batch)
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
            suspects = [sample for sample in batch if self._losses(self.model, [sample])[1]] or batch
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
