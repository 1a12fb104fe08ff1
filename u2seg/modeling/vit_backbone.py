"""A backbone on the vision transformer that made the labels, with levels p2 to p6 as Detectron2's FPN has.

Shapes: ``B`` images; ``H, W`` pixels of the padded batch; ``h, w`` cells of a level; ``D`` channels of a level.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn import functional as F  # noqa: N812

from u2seg.errors import UsageError, lookup
from u2seg.modeling.trunk import FEATURE, Trunk, ViTBlocks
from u2seg.plugins.guard import unguarded
from u2seg.pseudo.features.network import resolve_precision
from u2seg.pseudo.features.vit import ViTFeatures
from u2seg.pseudo.parts import Part

DEEPEST_STRIDE = 32
"""Of p5, the deepest level that the heads bring back to p2's size: they need sizes that it divides."""
STRIDES = (8, 16)
LEVELS = range(2, 7)
"""Level n stands for squares of 2 ** n pixels. What the pyramid does not make is the maximum over 2 x 2 cells."""


class ViTPyramid(SimpleFeaturePyramid):
    """ViTDet's `SimpleFeaturePyramid` (ECCV 2022, section 3) from p2 to p6, which says what it divides sizes by."""

    def __init__(self, trunk: Trunk, out_channels: int, norm: str) -> None:
        """Put a pyramid on ``trunk``.

        Args:
            trunk: its stride is one of `STRIDES`.
            out_channels: D, of each level.
            norm: one of Detectron2's, such as "LN" or "GN".
        """
        scales = [trunk.stride / stride for stride in (4, 8, 16, 32) if 2 * trunk.stride >= stride]
        super().__init__(trunk, FEATURE, out_channels, scales, norm=norm)
        levels, of_trunk = {f"p{level}": 2**level for level in LEVELS}, trunk.output_shape()[FEATURE]
        self._out_features = [*levels, FEATURE]
        self._out_feature_strides = levels | {FEATURE: trunk.stride}
        self._out_feature_channels = dict.fromkeys(levels, out_channels) | {FEATURE: of_trunk.channels}
        self._size_divisibility = DEEPEST_STRIDE

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Levels float32 (B, D, H / 4, W / 4), ... of ``images`` float32 (B, 3, H, W), and the trunk's features."""
        features = self.net(images)[FEATURE]
        levels = [stage(features) for stage in self.stages]
        while len(levels) < len(LEVELS):
            levels.append(F.max_pool2d(levels[-1], 2, ceil_mode=True))
        return dict(zip(self._out_features, [*levels, features], strict=True))

    @property
    def size_divisibility(self) -> int:
        """Pixels that sides of a batch are padded to multiples of."""
        return self._size_divisibility


@BACKBONE_REGISTRY.register()
def build_u2seg_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> ViTPyramid:
    """The pyramid of ``MODEL.FPN`` on the network of ``U2SEG.FEATURES``, by the keys of ``MODEL.VIT``.

    Raises:
        UsageError: a key has a value that is not allowed, or the weights can't be had.
        DataError: the weights do not fit the network.
    """
    node = cfg.MODEL.VIT
    stride = lookup("MODEL.VIT.STRIDE", str(node.STRIDE), {str(stride): stride for stride in STRIDES})
    part = Part.from_config("feature extractor", cfg.U2SEG.FEATURES)
    extractor = unguarded(part.build(device=cfg.MODEL.DEVICE, random_state=cfg.U2SEG.SEED))
    trunk = Trunk(
        _network(extractor, node.BLOCKS, cfg.U2SEG.FEATURES.NAME),
        stride=stride,
        frozen=node.FROZEN,
        precision=resolve_precision(getattr(extractor, "precision", "auto"), cfg.MODEL.DEVICE),
        device=cfg.MODEL.DEVICE,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        image_format=cfg.INPUT.FORMAT,
    )
    try:
        return ViTPyramid(trunk, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)
    except ValueError as error:  # torch's, of channels that make no whole groups
        raise UsageError(f"MODEL.FPN.NORM {cfg.MODEL.FPN.NORM!r} does not fit: {error}; use LN") from error


def _network(extractor: Any, blocks: list[int], name: str) -> nn.Module:
    """The network of ``extractor``, which the config calls ``name``, if it has one that can be a part of a model."""
    if isinstance(extractor, ViTFeatures):
        return ViTBlocks(extractor, blocks)
    if not isinstance(extractor, nn.Module) or not all(hasattr(extractor, key) for key in ("dim", "stride")):
        raise UsageError(
            f"U2SEG.FEATURES.NAME {name!r} can't be a backbone: it is no torch module with 'dim' and 'stride' "
            "(docs/models.md); use 'vit'"
        )
    if blocks:
        raise UsageError(f"MODEL.VIT.BLOCKS is for 'vit' and means nothing to {name!r}; leave it empty")
    return extractor
