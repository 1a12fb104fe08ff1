"""Cascade ROI heads whose regions may be weighted; the same parameters as Detectron2's `CascadeROIHeads`.

Shapes: ``R`` regions of the batch; ``K`` thing classes; ``M`` pixels of a mask's side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch.nn import functional as F  # noqa: N812

from u2seg.errors import UsageError
from u2seg.modeling.weighting import RegionWeighting

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

WEIGHTS = "region_weights"
"""Field of a batch's regions: float32 (R,)."""


class WeightedBoxPredictor(FastRCNNOutputLayers):
    """Box predictor whose losses count each region by its weight, where regions have one."""

    def losses(self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]) -> dict[str, Any]:
        """Classification and box loss of ``predictions``: scores float (R, K + 1) and deltas float (R, 4)."""
        plain = super().losses(predictions, proposals)
        if not proposals or not all(regions.has(WEIGHTS) for regions in proposals):
            return plain
        weights = cat([regions.get(WEIGHTS) for regions in proposals])
        classes = cat([regions.gt_classes for regions in proposals])
        scores, deltas = predictions
        losses = {
            "loss_cls": (weights * F.cross_entropy(scores.float(), classes, reduction="none")).sum(),
            "loss_box_reg": self._weighted_box_loss(deltas.float(), proposals, classes, weights),
        }
        count = max(len(classes), 1)
        return {key: loss * self.loss_weight.get(key, 1.0) / count for key, loss in losses.items()}

    def _weighted_box_loss(
        self, deltas: torch.Tensor, proposals: list[Instances], classes: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        matched = torch.nonzero((classes >= 0) & (classes < self.num_classes)).squeeze(1)
        boxes = cat([regions.proposal_boxes.tensor for regions in proposals])[matched]
        # where an image has no label, no region of it is matched: any box will do
        goals = cat([r.gt_boxes.tensor if r.has("gt_boxes") else r.proposal_boxes.tensor for r in proposals])[matched]
        wanted = self.box2box_transform.get_deltas(boxes, goals)
        loss = smooth_l1_loss(deltas[matched], wanted, self.smooth_l1_beta, reduction="none")
        return (weights[matched, None] * loss).sum()


@ROI_MASK_HEAD_REGISTRY.register()
class U2SegMaskHead(MaskRCNNConvUpsampleHead):
    """Mask head whose loss counts each region by its weight, where regions have one."""

    def forward(self, x: torch.Tensor, instances: list[Instances]) -> Any:
        """Losses in training, ``instances`` with ``pred_masks`` else; ``x`` float (R, D, M / 2, M / 2)."""
        some = [regions for regions in instances if len(regions)]
        if not self.training or not some or not all(regions.has(WEIGHTS) for regions in some):
            return super().forward(x, instances)
        logits = self.layers(x).float()
        side = logits.shape[-1]
        goals = cat([r.gt_masks.crop_and_resize(r.proposal_boxes.tensor, side) for r in some]).to(logits)
        classes = cat([regions.gt_classes for regions in some])
        channel = torch.zeros_like(classes) if logits.shape[1] == 1 else classes
        chosen = logits[torch.arange(len(logits), device=logits.device), channel]
        loss = F.binary_cross_entropy_with_logits(chosen, goals, reduction="none").mean(dim=(1, 2))
        weights = cat([regions.get(WEIGHTS) for regions in some])
        return {"loss_mask": (weights * loss).mean() * self.loss_weight}


@ROI_HEADS_REGISTRY.register()
class U2SegCascadeROIHeads(CascadeROIHeads):
    """`CascadeROIHeads` with DropLoss and ignored unlabelled regions as options, all off by default."""

    @configurable
    def __init__(self, *, weighting: RegionWeighting = RegionWeighting(), **kwargs: Any) -> None:  # noqa: B008
        """Make the heads.

        Args:
            weighting: how much regions count.
            kwargs: those of `CascadeROIHeads`.
        """
        super().__init__(**kwargs)
        self.weighting = weighting
        self._unlabelled: torch.Tensor | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_*`` and ``MODEL.U2SEG``."""
        arguments = super().from_config(cfg, input_shape)
        keys = cfg.MODEL.U2SEG
        weighting = RegionWeighting(keys.DROP_LOSS_IOU, keys.IGNORE_UNLABELLED)
        if weighting.is_used:
            box = cfg.MODEL.ROI_BOX_HEAD
            if box.BBOX_REG_LOSS_TYPE != "smooth_l1" or box.USE_SIGMOID_CE:
                raise UsageError(
                    "the options of MODEL.U2SEG go with MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE smooth_l1 and without "
                    "USE_SIGMOID_CE"
                )
            arguments["box_predictors"] = [
                WeightedBoxPredictor(cfg, head.output_shape, box2box_transform=predictor.box2box_transform)
                for head, predictor in zip(arguments["box_heads"], arguments["box_predictors"], strict=True)
            ]
        return {**arguments, "weighting": weighting}

    def forward(
        self,
        images: Any,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        unlabelled: torch.Tensor | None = None,
    ) -> Any:
        """As `CascadeROIHeads`; ``unlabelled`` bool (B, H, W) is True where an image has no label."""
        self._unlabelled = unlabelled
        try:
            return super().forward(images, features, proposals, targets)
        finally:
            self._unlabelled = None

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """As Detectron2's, for the first stage, with weights."""
        return self._weigh(super().label_and_sample_proposals(proposals, targets), targets)

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """As Detectron2's, for the later stages, with weights."""
        return self._weigh(super()._match_and_label_boxes(proposals, stage, targets), targets)

    def _weigh(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        if not self.weighting.is_used:
            return proposals
        maps = [None] * len(proposals) if self._unlabelled is None else list(self._unlabelled)
        for regions, labels, unlabelled in zip(proposals, targets, maps, strict=True):
            regions.set(WEIGHTS, self.weighting.weigh(regions, labels, self.num_classes, unlabelled))
        return proposals
