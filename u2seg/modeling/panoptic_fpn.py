"""The universal segmentation model: Detectron2's `PanopticFPN` with the same parameters and the same inference.

Shapes: ``B`` images; ``C`` semantic classes; ``H, W`` pixels of the padded batch; ``h, w`` the head's grid.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

from u2seg.modeling.roi_heads import U2SegCascadeROIHeads


@META_ARCH_REGISTRY.register()
class U2SegPanopticFPN(PanopticFPN):
    """Panoptic Cascade Mask R-CNN of the paper; tells the ROI heads which pixels have no label, if they ask.

    With a head that has no use for that, forward is Detectron2's own.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training; in inference ``instances``, ``sem_seg`` and ``panoptic_seg`` of each image."""
        heads = self.roi_heads
        if self.training and isinstance(heads, U2SegCascadeROIHeads) and heads.ignore_unlabelled > 0:
            void = self.sem_seg_head.ignore_value
            heads.unlabelled = [entry["sem_seg"].to(self.device) == void for entry in batched_inputs]
        return super().forward(batched_inputs)


@SEM_SEG_HEADS_REGISTRY.register()
class U2SegSemSegFPNHead(SemSegFPNHead):
    """`SemSegFPNHead` for labels that may leave whole photos void, as pseudo labels do."""

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross entropy of ``predictions`` float (B, C, h, w) with labels ``targets`` int64 (B, H, W).

        It is 0, and not NaN, for a batch without one labelled pixel.
        """
        if (targets != self.ignore_value).any():
            return super().losses(predictions, targets)
        return {"loss_sem_seg": predictions.float().sum() * 0.0}
