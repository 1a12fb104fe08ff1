"""The universal segmentation model: Detectron2's `PanopticFPN` with the same parameters and the same inference.

Shapes: ``B`` images; ``C`` semantic classes; ``H, W`` pixels of the padded batch; ``h, w`` the head's grid.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from fvcore.common.config import CfgNode
from torch.nn import functional as F  # noqa: N812

from u2seg.errors import UsageError
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

    @configurable
    def __init__(self, *args: Any, loss_stride: int = 1, **kwargs: Any) -> None:
        """Make the head.

        Args:
            args: those of `SemSegFPNHead`.
            loss_stride: pixels per side of the squares of which one has a loss; 1 is every pixel.
            kwargs: those of `SemSegFPNHead`.

        Raises:
            UsageError: the head's own stride is no multiple of ``loss_stride``.
        """
        super().__init__(*args, **kwargs)
        if loss_stride < 1 or self.common_stride % loss_stride:
            raise UsageError(
                f"MODEL.U2SEG.SEM_SEG_LOSS_STRIDE {loss_stride} must divide MODEL.SEM_SEG_HEAD.COMMON_STRIDE, "
                f"{self.common_stride}"
            )
        self.loss_stride = loss_stride

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.SEM_SEG_HEAD`` and ``MODEL.U2SEG``."""
        return super().from_config(cfg, input_shape) | {"loss_stride": cfg.MODEL.U2SEG.SEM_SEG_LOSS_STRIDE}

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross entropy of ``predictions`` float (B, C, h, w) with labels ``targets`` int64 (B, H, W).

        It is 0, and not NaN, for a batch without one labelled pixel.
        """
        predictions, step = predictions.float(), self.loss_stride
        targets = targets[:, step // 2 :: step, step // 2 :: step]
        if not (targets != self.ignore_value).any():
            return {"loss_sem_seg": predictions.sum() * 0.0}
        if step < self.common_stride:
            factor = self.common_stride // step
            predictions = F.interpolate(predictions, scale_factor=factor, mode="bilinear", align_corners=False)
        loss = F.cross_entropy(predictions, targets, ignore_index=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}
