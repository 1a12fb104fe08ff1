"""The semantic head: Detectron2's, except that a batch without one labelled pixel has loss 0 and not NaN."""

from __future__ import annotations

import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead


@SEM_SEG_HEADS_REGISTRY.register()
class U2SegSemSegFPNHead(SemSegFPNHead):
    """`SemSegFPNHead` for labels that may leave whole photos void, as pseudo labels do."""

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross entropy of ``predictions`` float (B, C, h, w) with labels ``targets`` int64 (B, H, W)."""
        if (targets != self.ignore_value).any():
            return super().losses(predictions, targets)
        return {"loss_sem_seg": predictions.float().sum() * 0.0}
