"""From raw detections and semantic logits to one panoptic map, in what TorchScript understands.

It does what Detectron2's `detector_postprocess`, `sem_seg_postprocess` and `combine_semantic_and_instance_outputs` do
in Python, and is held to their results by tests. Method: Panoptic FPN (CVPR 2019), section 4, after Panoptic
Segmentation (CVPR 2019), section 5.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels the network sees; ``C`` semantic classes (1 + S, 0 is "a thing");
``n`` segments; ``N`` detections whose box is not empty.
"""

# TorchScript reads annotations as they are written, so no `from __future__ import annotations` here.

import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from torch import nn
from torch.nn import functional as F  # noqa: N812


class PanopticMerge(nn.Module):
    """A traced network with the merge behind it."""

    num_things: int
    overlap: float
    stuff_area: float
    min_score: float

    def __init__(
        self, network: nn.Module, *, num_things: int, overlap: float, stuff_area: float, min_score: float
    ) -> None:
        """Put the merge behind ``network``.

        Args:
            network: traced `u2seg.engine.export.Network`.
            num_things: K.
            overlap: a thing that is covered by better ones for more than this share is left out.
            stuff_area: stuff of fewer pixels is left out.
            min_score: things with a lower score are left out of the map.
        """
        super().__init__()
        self.network = network
        self.num_things, self.overlap, self.stuff_area, self.min_score = num_things, overlap, stuff_area, min_score

    def forward(
        self, image: torch.Tensor, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Segment ``image`` float32 (3, h, w), 0..255, for a photo of ``height`` x ``width`` pixels.

        Returns:
            Panoptic map int32 (H, W) of segment ids 1..n, 0 for none; category ids int64 (n,): things 1..K, stuff from
            K+1; their scores float32 (n,); then the instances: boxes float32 (N, 4) left, top, right, bottom in
            pixels; category ids int64 (N,); scores float32 (N,); masks bool (N, H, W).
        """
        boxes, scores, classes, grids, logits = self.network(image)
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]], dtype=boxes.dtype, device=boxes.device)
        size = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum((boxes * scale.repeat(2)).clamp(min=0), size.repeat(2))
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        masks = paste_masks_in_image(grids[kept], boxes, (height, width)).to(torch.bool)
        logits = logits[:, : image.shape[1], : image.shape[2]].unsqueeze(0)
        logits = F.interpolate(logits, size=[height, width], mode="bilinear", align_corners=False)[0]
        panoptic, categories, segment_scores = self.merge(scores, classes, masks, logits)
        return panoptic, categories, segment_scores, boxes, classes + 1, scores, masks

    def merge(
        self, scores: torch.Tensor, classes: torch.Tensor, masks: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lay things over each other, best first, then stuff where no thing is.

        Args:
            scores: float32 (N,).
            classes: int64 (N,) in [0, K).
            masks: bool (N, H, W).
            logits: float32 (C, H, W).

        Returns:
            The first three of `forward`.
        """
        panoptic = torch.zeros(logits.shape[1], logits.shape[2], dtype=torch.int32, device=logits.device)
        categories: list[int] = []
        segment_scores: list[float] = []
        for index in torch.argsort(-scores):
            if float(scores[index]) < self.min_score:
                break
            mask = masks[index]
            free = mask & (panoptic == 0)
            area = int(mask.sum())
            if area == 0 or (area - int(free.sum())) / area > self.overlap:
                continue
            categories.append(int(classes[index]) + 1)
            segment_scores.append(float(scores[index]))
            panoptic[free] = len(categories)
        semantic = logits.argmax(dim=0)
        probabilities = logits.softmax(dim=0)
        for label in range(1, logits.shape[0]):
            region = (semantic == label) & (panoptic == 0)
            area = int(region.sum())
            if area == 0 or area < self.stuff_area:
                continue
            categories.append(self.num_things + label)
            segment_scores.append(float(probabilities[label][region].mean()))
            panoptic[region] = len(categories)
        return (
            panoptic,
            torch.tensor(categories, dtype=torch.int64, device=logits.device),
            torch.tensor(segment_scores, dtype=torch.float32, device=logits.device),
        )
