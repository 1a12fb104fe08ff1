"""Training steps that name the photo on which a loss became NaN."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.engine.train_loop import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from u2seg.errors import DataError


class _NamesPhotos(SimpleTrainer):
    """Turns a NaN anywhere in a step into a DataError that names photos; the weights are those before the step."""

    def run_step(self) -> None:
        try:
            super().run_step()
        except FloatingPointError as error:
            reason = str(error).splitlines()[0].rstrip("!")
            raise DataError(f"{reason}, at iteration {self.iter}, on {self._name_photos()}") from error

    def _write_metrics(self, loss_dict: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> None:
        bad = [name for name, loss in loss_dict.items() if not torch.isfinite(loss).all()]
        if bad:
            raise FloatingPointError(f"{', '.join(bad)} became NaN or infinite")
        super()._write_metrics(loss_dict, *args, **kwargs)

    def _name_photos(self) -> str:
        batch = getattr(self.data_loader, "last_batch", [])
        # With several processes, running the model here would wait for the others in a synchronised layer.
        alone = [sample for sample in batch if comm.get_world_size() > 1 or self._breaks(sample)] or batch
        names = [str(sample.get("file_name", "a photo without a name")) for sample in alone]
        return f"photo {names[0]}" if len(names) == 1 else f"one of the photos {', '.join(names)}"

    @torch.no_grad()
    def _breaks(self, sample: dict[str, Any]) -> bool:
        """Whether ``sample`` on its own gives a loss that is not finite."""
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        try:
            losses = model([sample])
        except FloatingPointError:
            return True
        return not all(torch.isfinite(loss).all() for loss in losses.values())


class PlainSteps(_NamesPhotos, SimpleTrainer):
    """Steps in full precision."""


class MixedPrecisionSteps(_NamesPhotos, AMPTrainer):
    """Steps in mixed precision, on GPUs."""


class BFloat16Steps(PlainSteps):
    """Steps in mixed precision on a CPU: bfloat16 has float32's range, so no loss is scaled; weights stay float32."""

    def run_step(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()
