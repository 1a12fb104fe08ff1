"""The universal segmentation model: Detectron2's `PanopticFPN` with the same parameters and the same inference.

Shapes: ``B`` images; ``C`` semantic classes; ``H, W`` pixels of the padded batch; ``h, w`` the head's grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN, combine_semantic_and_instance_outputs
from detectron2.structures import Instances
from fvcore.common.config import CfgNode
from torch.nn import functional as F  # noqa: N812

from u2seg.modeling.roi_heads import U2SegCascadeROIHeads
from u2seg.plugins.api import Refiner
from u2seg.pseudo.parts import Part
from u2seg.pseudo.refine.masks import refine_masks, refine_stuff
from u2seg.pseudo.stuff import drop_small
from u2seg.structures import MaskSet

STUFF_STRIDE = 4
"""Pixels of the photo that a cell of refined stuff stands for before."""


@META_ARCH_REGISTRY.register()
class U2SegPanopticFPN(PanopticFPN):
    """Panoptic Cascade Mask R-CNN of the paper; tells the ROI heads which pixels have no label, if they ask.

    With a head that has no use for that, and without a refiner, forward is Detectron2's own.
    """

    @configurable
    def __init__(
        self,
        *,
        refiner: Refiner | None = None,
        min_refined_iou: float = 0.5,
        min_stuff_share: float = 0.0,
        thing_scores: bool = False,
        **kwargs: Any,
    ) -> None:
        """Make the model.

        Args:
            refiner: brings the masks of detections, and stuff in ``panoptic_seg``, to the edges of the photo; None
                leaves them as the heads draw them.
            min_refined_iou: of a refined mask with what it was; one that becomes another mask stays as it was.
            min_stuff_share: see `refined_stuff`; of a model with a refiner.
            thing_scores: multiply a detection's score by the mean probability of "a thing" inside its mask.
            kwargs: those of `PanopticFPN`.
        """
        super().__init__(**kwargs)
        self.refiner, self.min_refined_iou, self.min_stuff_share = refiner, min_refined_iou, min_stuff_share
        self.thing_scores = thing_scores

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL``, and the refiner of ``U2SEG.REFINE`` if ``MODEL.U2SEG.REFINE`` asks for it."""
        node = cfg.MODEL.U2SEG
        arguments = super().from_config(cfg) | {
            "min_refined_iou": cfg.U2SEG.MASKS.MIN_REFINED_IOU,
            "min_stuff_share": node.MIN_STUFF_SHARE,
            "thing_scores": node.THING_SCORES,
        }
        if node.REFINE:
            part = Part.from_config("refiner", cfg.U2SEG.REFINE)
            arguments["refiner"] = part.build(device=cfg.MODEL.DEVICE, random_state=cfg.U2SEG.SEED)
        return arguments

    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:
        """As Detectron2's; what is painted is refined and scored anew before, if asked for, ``sem_seg`` is not."""
        results = super().inference(batched_inputs, do_postprocess)
        if not do_postprocess or (self.refiner is None and not self.thing_scores):
            return results
        for entry, result in zip(batched_inputs, results, strict=True):
            logits, detections = result["sem_seg"], result["instances"]
            if self.refiner is None:
                stuff = logits.argmax(dim=0)
            else:
                photo = photo_of(entry["image"], self.input_format, tuple(logits.shape[1:]))
                refine_detections(self.refiner, photo, detections, self.min_refined_iou)
                stuff = refined_stuff(self.refiner, photo, logits, self.min_stuff_share)
            if self.thing_scores:
                things = logits.float().softmax(dim=0)[0]
                detections.scores = detections.scores * mean_inside_masks(things, detections.pred_masks)
            result["panoptic_seg"] = combine_semantic_and_instance_outputs(
                detections,
                stuff,
                self.combine_overlap_thresh,
                self.combine_stuff_area_thresh,
                self.combine_instances_score_thresh,
            )
        return results

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training; in inference ``instances``, ``sem_seg`` and ``panoptic_seg`` of each image."""
        heads = self.roi_heads
        if self.training and isinstance(heads, U2SegCascadeROIHeads) and heads.ignore_unlabelled > 0:
            void = self.sem_seg_head.ignore_value
            heads.unlabelled = [entry["sem_seg"].to(self.device) == void for entry in batched_inputs]
        return super().forward(batched_inputs)


def photo_of(image: torch.Tensor, channels: str, size: tuple[int, int]) -> np.ndarray:
    """``image`` (3, h, w) of a model's input, 0 to 255, as uint8 (H, W, 3) RGB of ``size`` [H, W]."""
    pixels = (image if channels == "RGB" else image.flip(0))[None].float()
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0]
    return np.ascontiguousarray(pixels.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def refine_detections(refiner: Refiner, photo: np.ndarray, detections: Instances, min_iou: float = 0.5) -> None:
    """Refine ``pred_masks`` bool (N, H, W) of ``detections`` in place, as masks of labels are.

    Masks that are empty, or would become another (an IoU below ``min_iou``), stay.

    Args:
        refiner: brings probabilities to pixels.
        photo: uint8 (H, W, 3) RGB.
        detections: of that photo.
        min_iou: see `U2SegPanopticFPN`.
    """
    masks = detections.pred_masks
    drawn = masks.flatten(1).any(dim=1)
    if not drawn.any():
        return
    all_alike = np.ones(int(drawn.sum()), np.float32)  # all stay: order is what counts
    coarse = MaskSet(masks[drawn].cpu().numpy(), all_alike)
    refined = refine_masks(refiner, photo, coarse, min_iou, keep_rough=True)
    masks[drawn] = torch.from_numpy(refined.masks).to(masks.device)


def mean_inside_masks(values: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean float (N,) of ``values`` float (H, W) inside each of ``masks`` bool (N, H, W); 0 where one is empty."""
    means = [values[mask].mean() for mask in masks]
    return torch.stack(means).nan_to_num(0.0) if means else values.new_zeros(0)


def refined_stuff(refiner: Refiner, photo: np.ndarray, logits: torch.Tensor, min_share: float = 0.0) -> torch.Tensor:
    """Likeliest semantic class int64 (H, W) after refinement, 0 for "a thing".

    Args:
        refiner: brings probabilities to pixels.
        photo: uint8 (H, W, 3) RGB.
        logits: float (C, H, W).
        min_share: if above 0, every pixel gets stuff, as in labels by `KMeansStuff`, of the classes that are the
            likeliest on at least this share of the photo. Else "a thing" is one class of all.
    """
    grid = [max(1, side // STUFF_STRIDE) for side in logits.shape[1:]]
    probabilities = F.interpolate(logits[None].float().softmax(dim=1), grid, mode="area")[0].cpu().numpy()
    if min_share and len(probabilities) > 1:
        stuff = drop_small(probabilities[1:], min_share)
        probabilities = np.concatenate([np.zeros_like(stuff[:1]), stuff])
    refined = refine_stuff(refiner, photo, probabilities)
    return torch.from_numpy(refined).long().to(logits.device)
