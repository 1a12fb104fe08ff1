"""Meta-architectures, backbones and ROI heads in Detectron2's registries; importing this package registers them."""

from u2seg.modeling.panoptic_fpn import U2SegPanopticFPN
from u2seg.modeling.roi_heads import U2SegCascadeROIHeads
from u2seg.modeling.sem_seg_head import U2SegSemSegFPNHead
from u2seg.modeling.vit_backbone import build_u2seg_vit_backbone

__all__ = ["U2SegCascadeROIHeads", "U2SegPanopticFPN", "U2SegSemSegFPNHead", "build_u2seg_vit_backbone"]
