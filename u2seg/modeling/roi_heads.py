"""Cascade ROI heads for clusters as classes; the same parameters as Detectron2's `CascadeROIHeads`.

They may leave regions out of the losses, and may score a detection as a thing instead of as one of the clusters.

Shapes: ``R`` regions of one image; ``K`` thing classes; ``H, W`` pixels of the image.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, Instances, pairwise_iou
from fvcore.common.config import CfgNode

from u2seg.errors import lookup
from u2seg.modeling.name_head import NameHead
from u2seg.modeling.sem_seg_head import Features

COUNTS = "region_counts"
"""Field of a batch's regions: bool (R,), whether the losses count them."""


class SelectiveBoxPredictor(FastRCNNOutputLayers):
    """Box predictor whose losses are 0 for regions that do not count, and averaged over all regions."""

    def losses(self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]) -> dict[str, Any]:
        """Classification and box loss of ``predictions``: scores float (sum R, K + 1) and deltas float (sum R, 4)."""
        if not proposals or not all(regions.has(COUNTS) for regions in proposals):
            return super().losses(predictions, proposals)
        counts = cat([regions.get(COUNTS) for regions in proposals])
        scores, deltas = predictions
        kept = [regions[regions.get(COUNTS)] for regions in proposals]
        share = counts.float().mean() if len(counts) else 1.0
        return {key: loss * share for key, loss in super().losses((scores[counts], deltas[counts]), kept).items()}


@ROI_HEADS_REGISTRY.register()
class U2SegCascadeROIHeads(CascadeROIHeads):
    """`CascadeROIHeads` with DropLoss, ignored unlabelled regions and scores of things as options, off by default."""

    @configurable
    def __init__(
        self,
        *,
        drop_loss_iou: float = 0.0,
        ignore_unlabelled: float = 0.0,
        object_scores: bool = False,
        mask_scores: bool = False,
        name_head: NameHead | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the heads.

        Args:
            drop_loss_iou: DropLoss (CutLER, section 3.3: 0.01): a region has no loss at a stage whose box for it has no
                IoU with a label above this. An image without labels has the plain loss. 0 is off.
            ignore_unlabelled: background regions of which more than this share is unlabelled have no loss. 0 is off.
            object_scores: see `detect_objects`.
            mask_scores: see `score_masks`.
            name_head: says the classes of detections in place of the box heads, and is trained beside them.
            kwargs: those of `CascadeROIHeads`.
        """
        super().__init__(**kwargs)
        self.object_scores, self.mask_scores = object_scores, mask_scores
        self.name_head, self.drop_loss_iou, self.ignore_unlabelled = name_head, drop_loss_iou, ignore_unlabelled
        self.unlabelled: list[torch.Tensor] | None = None
        """For each image of the batch bool (H, W), True where it has no label; None where that is not known."""
        self._labels: list[Instances] = []

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_*`` and ``MODEL.U2SEG``."""
        arguments, node = super().from_config(cfg, input_shape), cfg.MODEL.U2SEG
        for key in ("DROP_LOSS_IOU", "IGNORE_UNLABELLED", "OBJECT_SCORES", "MASK_SCORES"):
            arguments[key.lower()] = node[key]
        if node.DROP_LOSS_IOU or node.IGNORE_UNLABELLED:
            arguments["box_predictors"] = [
                SelectiveBoxPredictor(cfg, head.output_shape, box2box_transform=predictor.box2box_transform)
                for head, predictor in zip(arguments["box_heads"], arguments["box_predictors"], strict=True)
            ]
        if name := node.NAMES_FROM:
            shape = lookup("MODEL.U2SEG.NAMES_FROM: output of the backbone", name, input_shape)
            arguments["name_head"] = NameHead(name, shape, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        return arguments

    def forward(
        self, images: Any, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Any:
        """As `CascadeROIHeads`; in training, with the loss of names if there is a head for them."""
        self._labels = targets or []
        result, losses = super().forward(images, features, proposals, targets)
        if self.training and self.name_head is not None:
            losses |= self.name_head.losses(features, self._labels)
        return result, losses

    def _forward_box(
        self, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Any:
        """As Detectron2's, but for the scores of detections if asked to."""
        if self.training or not self.object_scores:
            return super()._forward_box(features, proposals, targets)
        levels = [features[name] for name in self.box_in_features]
        sizes = [regions.image_size for regions in proposals]
        boxes: list[torch.Tensor] = []
        scores_by_stage = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
            predictions = self._run_stage(levels, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            scores_by_stage.append(predictor.predict_probs(predictions, proposals))
        scores = [torch.stack(of_image).mean(dim=0) for of_image in zip(*scores_by_stage, strict=True)]
        limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
        return detect_objects(boxes, scores, sizes, *limits)

    def _forward_mask(self, features: Features, instances: list[Instances]) -> Any:
        """As Detectron2's; then names and scores of detections, if asked to."""
        result = super()._forward_mask(features, instances)
        if self.training:
            return result
        if self.name_head is not None:
            self.name_head.rename(features, result)
        return [score_masks(detections) for detections in result] if self.mask_scores else result

    def _run_stage(self, features: list[torch.Tensor], proposals: list[Instances], stage: int) -> Any:
        """As Detectron2's; in training, the regions are told whether they count at this stage."""
        predictions = super()._run_stage(features, proposals, stage)
        if self.training and (self.drop_loss_iou > 0 or self.ignore_unlabelled > 0):
            boxes = self.box_predictor[stage].predict_boxes(predictions, proposals)
            for index, (regions, predicted) in enumerate(zip(proposals, boxes, strict=True)):
                regions.set(COUNTS, self._counts(regions, Boxes(predicted.detach()), index))
        return predictions

    @torch.no_grad()
    def _counts(self, regions: Instances, predicted: Boxes, image: int) -> torch.Tensor:
        """Whether each of ``regions``, with its ``predicted`` box (R of them), counts in the losses: bool (R,)."""
        counts = torch.ones_like(regions.gt_classes, dtype=torch.bool)
        labels = self._labels[image].gt_boxes
        if self.drop_loss_iou > 0 and len(labels):
            counts &= pairwise_iou(labels, predicted).max(dim=0).values > self.drop_loss_iou
        if self.ignore_unlabelled > 0 and self.unlabelled is not None:
            share = mean_inside(self.unlabelled[image], regions.proposal_boxes.tensor)
            counts &= (regions.gt_classes != self.num_classes) | (share <= self.ignore_unlabelled)
        return counts


def detect_objects(
    boxes: list[torch.Tensor],
    scores: list[torch.Tensor],
    sizes: list[tuple[int, int]],
    score_threshold: float,
    nms_threshold: float,
    most: int,
) -> list[Instances]:
    """Detections whose score says that a region is a thing, of whichever cluster: 1 minus that of the background.

    With many clusters of few examples, the score of a thing is spread over several of them: ranked by the highest, a
    sure thing stands behind, and one region comes back under several names. Here a region has its likeliest name, and
    is suppressed by regions of any name.

    Args:
        boxes: of each image float (R, 4), pixels.
        scores: of each image float (R, K + 1), probabilities, the background last.
        sizes: of each image (H, W).
        score_threshold: least score.
        nms_threshold: IoU of boxes above which the less sure one is left out.
        most: detections of an image.
    """
    of_things = [torch.stack([1 - of_image[:, -1], of_image[:, -1]], dim=1) for of_image in scores]
    detections, rows = fast_rcnn_inference(boxes, of_things, sizes, score_threshold, nms_threshold, most)
    for detected, of_image, row in zip(detections, scores, rows, strict=True):
        detected.pred_classes = of_image[row, :-1].argmax(dim=1)
    return detections


def score_masks(detections: Instances) -> Instances:
    """``detections`` with their scores times the mean probability inside their masks ("maskness"), best first.

    A box says where a thing is, and its score nothing of how well its mask is drawn (SOLO, TPAMI 2021; Mask Scoring
    R-CNN, CVPR 2019, which learns what is only counted here).

    Args:
        detections: ``scores`` float (N,); ``pred_masks`` float (N, 1, h, w), probabilities.
    """
    masks = detections.pred_masks.flatten(1)
    inside = masks > 0.5  # where Detectron2 draws the mask
    sure = (masks * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
    detections.scores = detections.scores * sure
    return detections[detections.scores.argsort(descending=True, stable=True)]


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
