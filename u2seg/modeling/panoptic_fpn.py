"""The universal segmentation model: Detectron2's `PanopticFPN` with the same parameters and the same inference.

Shapes: ``B`` images; ``H, W`` pixels of the padded batch.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.structures import ImageList

from u2seg.modeling.roi_heads import U2SegCascadeROIHeads


@META_ARCH_REGISTRY.register()
class U2SegPanopticFPN(PanopticFPN):
    """Panoptic Cascade Mask R-CNN of the paper; tells the ROI heads which pixels have no label, if they ask.

    With a head that has no use for that, forward is Detectron2's own.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training; in inference ``instances``, ``sem_seg`` and ``panoptic_seg`` of each image."""
        heads = self.roi_heads
        wants_map = isinstance(heads, U2SegCascadeROIHeads) and heads.weighting.ignore_unlabelled > 0
        if not self.training or not wants_map:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        labels = self._pad_labels(batched_inputs)
        _, losses = self.sem_seg_head(features, labels)
        things = [entry["instances"].to(self.device) for entry in batched_inputs]
        proposals, proposal_losses = self.proposal_generator(images, features, things)
        unlabelled = labels == self.sem_seg_head.ignore_value
        _, region_losses = heads(images, features, proposals, things, unlabelled)
        return {**losses, **proposal_losses, **region_losses}

    def _pad_labels(self, batched_inputs: list[dict[str, Any]]) -> torch.Tensor:
        """``sem_seg`` int64 (B, H, W) of the batch, padded as the images are."""
        return ImageList.from_tensors(
            [entry["sem_seg"].to(self.device) for entry in batched_inputs],
            self.backbone.size_divisibility,
            self.sem_seg_head.ignore_value,
            self.backbone.padding_constraints,
        ).tensor
