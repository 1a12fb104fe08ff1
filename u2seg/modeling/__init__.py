"""Meta-architectures and ROI heads in Detectron2's registries; importing this package registers them."""

from u2seg.modeling.panoptic_fpn import U2SegPanopticFPN
from u2seg.modeling.roi_heads import U2SegCascadeROIHeads, U2SegMaskHead
from u2seg.modeling.sem_seg import U2SegSemSegFPNHead

__all__ = ["U2SegCascadeROIHeads", "U2SegMaskHead", "U2SegPanopticFPN", "U2SegSemSegFPNHead"]
