"""How much each sampled region counts in the losses.

Shapes: ``R`` regions of one image; ``G`` labelled things; ``H, W`` pixels of the padded image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances, pairwise_iou


@dataclass(frozen=True)
class RegionWeighting:
    """The departures from the paper's losses; with these defaults there is none."""

    drop_loss_iou: float = 0.0
    """Regions whose best IoU with a label is not above this get no loss (DropLoss; CutLER, section 3.3: 0.01)."""
    ignore_unlabelled: float = 0.0
    """Background regions of which more than this share is unlabelled get no loss; 0 is off."""

    @property
    def is_used(self) -> bool:
        """Whether any weight can differ from 1."""
        return self.drop_loss_iou > 0 or self.ignore_unlabelled > 0

    @torch.no_grad()
    def weigh(
        self, regions: Instances, labels: Instances, num_classes: int, unlabelled: torch.Tensor | None
    ) -> torch.Tensor:
        """Weights float32 (R,) of ``regions``.

        Args:
            regions: ``proposal_boxes`` and ``gt_classes``, which is ``num_classes`` for background.
            labels: the image's things, with ``gt_boxes`` and ``gt_scores``.
            num_classes: K.
            unlabelled: bool (H, W), True where the image has no label; None where that is not asked for.
        """
        boxes = regions.proposal_boxes
        weights = boxes.tensor.new_ones(len(regions), dtype=torch.float32)
        background = regions.gt_classes == num_classes
        if len(labels):
            best = pairwise_iou(labels.gt_boxes, boxes).max(dim=0).values
        else:
            best = weights.new_zeros(len(regions))
        if self.drop_loss_iou > 0:
            weights = weights * (best > self.drop_loss_iou)
        if self.ignore_unlabelled > 0 and unlabelled is not None:
            share = mean_inside(unlabelled, boxes.tensor)
            weights = weights * ~(background & (share > self.ignore_unlabelled))
        return weights


def mean_inside(mask: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Share float32 (R,) of ``boxes`` float (R, 4), rounded outwards, that ``mask`` bool (H, W) covers."""
    height, width = mask.shape
    sums = torch.zeros(height + 1, width + 1, dtype=torch.int64, device=mask.device)
    sums[1:, 1:] = mask.long().cumsum(0).cumsum(1)
    left, top = boxes[:, 0].floor().long().clamp(0, width), boxes[:, 1].floor().long().clamp(0, height)
    right, bottom = boxes[:, 2].ceil().long().clamp(0, width), boxes[:, 3].ceil().long().clamp(0, height)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    area = (right - left) * (bottom - top)
    return inside.float() / area.clamp(min=1).float()
