"""The semantic head: Detectron2's `SemSegFPNHead` for pseudo labels.

Shapes: ``B`` images; ``C`` semantic classes; ``D`` channels; ``H, W`` pixels of the padded batch; ``h, w`` the head's
grid.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn import functional as F  # noqa: N812

from u2seg.errors import UsageError, lookup

Features = dict[str, torch.Tensor]
"""Outputs of the backbone, float (B, D, H / s, W / s) where s is their stride, by name."""


@SEM_SEG_HEADS_REGISTRY.register()
class U2SegSemSegFPNHead(SemSegFPNHead):
    """`SemSegFPNHead` for labels that may leave whole photos void, as pseudo labels do.

    It may add scores that are linear in an output of the backbone. Clusters of stuff are learnt sooner from the
    features that they were made of than from a pyramid that is trained from nothing.
    """

    @configurable
    def __init__(self, *args: Any, loss_stride: int = 1, linear: LinearScores | None = None, **kwargs: Any) -> None:
        """Make the head.

        Args:
            args: those of `SemSegFPNHead`.
            loss_stride: pixels per side of the squares of which one has a loss; 1 is every pixel.
            linear: scores that are added to those of the pyramid.
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
        self.loss_stride, self.linear = loss_stride, linear
        if linear is not None:  # neither drowns the other at first
            nn.init.normal_(self.predictor.weight, std=0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.SEM_SEG_HEAD`` and ``MODEL.U2SEG``.

        Raises:
            UsageError: ``MODEL.U2SEG.STUFF_FROM`` is no output of the backbone.
        """
        arguments = super().from_config(cfg, input_shape) | {"loss_stride": cfg.MODEL.U2SEG.SEM_SEG_LOSS_STRIDE}
        if name := cfg.MODEL.U2SEG.STUFF_FROM:
            shape = lookup("MODEL.U2SEG.STUFF_FROM: output of the backbone", name, input_shape)
            arguments["linear"] = LinearScores(name, shape, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return arguments

    def layers(self, features: Features) -> torch.Tensor:
        """Scores float (B, C, h, w), before softmax, of the backbone's outputs."""
        scores = super().layers(features)
        if self.linear is None:
            return scores
        added = F.interpolate(self.linear(features), scores.shape[-2:], mode="bilinear", align_corners=False)
        return scores + added

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


class LinearScores(nn.Module):
    """Scores of classes, linear in what the cells of one output of the backbone hold, normalised; 0 at first."""

    def __init__(self, in_feature: str, shape: ShapeSpec, num_classes: int) -> None:
        """Make them for the backbone's output ``in_feature`` of ``shape``, and ``num_classes`` (C)."""
        super().__init__()
        self.in_feature = in_feature
        self.scores = nn.Linear(shape.channels, num_classes)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, features: Features) -> torch.Tensor:
        """Scores float (B, C, H / s, W / s) of an output (B, D, H / s, W / s) of stride s."""
        return self.scores(self.cells(features)).movedim(-1, 1)

    def cells(self, features: Features) -> torch.Tensor:
        """The output's cells float (B, H / s, W / s, D), each of mean 0 and variance 1."""
        return normalised(features[self.in_feature].movedim(1, -1))


def normalised(vectors: torch.Tensor) -> torch.Tensor:
    """``vectors`` float (..., D), each with mean 0 and variance 1."""
    return F.layer_norm(vectors, vectors.shape[-1:])
