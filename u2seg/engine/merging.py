"""From raw detections and semantic logits to one panoptic map, in what TorchScript understands.

It does what Detectron2's `detector_postprocess`, `sem_seg_postprocess` and `combine_semantic_and_instance_outputs` do
in Python, and is held to their results by tests. Method: Panoptic FPN (CVPR 2019), section 4, after Panoptic
Segmentation (CVPR 2019), section 5.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels the network sees; ``C`` semantic classes (1 + S, 0 is "a thing");
``R`` detections; ``M`` side of their mask grids; ``n`` segments; ``N`` detections whose box is not empty.
"""

# TorchScript reads annotations as they are written, so no `from __future__ import annotations` here.

import torch
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
        size = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        scale = torch.tensor(
            [width / image.shape[2], height / image.shape[1]], dtype=boxes.dtype, device=boxes.device
        ).repeat(2)
        boxes = torch.minimum((boxes * scale).clamp(min=0), size)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        masks = paste_masks(grids[kept], boxes, height, width)
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
        for place in torch.argsort(-scores):
            if float(scores[place]) < self.min_score:
                break
            mask = masks[place]
            area = int(mask.sum())
            if area == 0:
                continue
            covered = int((mask & (panoptic > 0)).sum())
            if covered / area > self.overlap:
                continue
            categories.append(int(classes[place]) + 1)
            segment_scores.append(float(scores[place]))
            panoptic[mask & (panoptic == 0)] = len(categories)
        semantic = logits.argmax(dim=0)
        probabilities = logits.softmax(dim=0)
        present = torch.bincount(semantic.flatten(), minlength=logits.shape[0])
        for label in range(1, logits.shape[0]):
            if int(present[label]) == 0:
                continue
            region = (semantic == label) & (panoptic == 0)
            area = int(region.sum())
            if area == 0 or area < self.stuff_area:
                continue
            categories.append(self.num_things + label)
            segment_scores.append(float(probabilities[label][region].mean()))
            panoptic[region] = len(categories)
        device = logits.device
        return (
            panoptic,
            torch.tensor(categories, dtype=torch.int64, device=device),
            torch.tensor(segment_scores, dtype=torch.float32, device=device),
        )


def paste_masks(grids: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bring each mask from its box to the photo: bool (N, H, W).

    Args:
        grids: float32 (N, M, M) probabilities at the centres of M x M cells of a box.
        boxes: float32 (N, 4) left, top, right, bottom in pixels, none empty.
        height: H.
        width: W.
    """
    masks = torch.zeros(grids.shape[0], height, width, dtype=torch.bool, device=grids.device)
    rows = torch.arange(height, device=grids.device, dtype=torch.float32) + 0.5
    columns = torch.arange(width, device=grids.device, dtype=torch.float32) + 0.5
    for i in range(grids.shape[0]):
        left, top, right, bottom = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        y = (rows - top) / (bottom - top) * 2 - 1
        x = (columns - left) / (right - left) * 2 - 1
        places = torch.stack([x.unsqueeze(0).expand(height, -1), y.unsqueeze(1).expand(-1, width)], dim=2)
        values = F.grid_sample(grids[i].unsqueeze(0).unsqueeze(0), places.unsqueeze(0), align_corners=False)
        masks[i] = values[0, 0] >= 0.5
    return masks
