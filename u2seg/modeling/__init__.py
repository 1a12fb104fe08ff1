"""Meta-architectures and ROI heads in Detectron2's registries; importing this package registers them."""

from u2seg.modeling.panoptic_fpn import U2SegCascadeROIHeads, U2SegPanopticFPN, U2SegSemSegFPNHead

__all__ = ["U2SegCascadeROIHeads", "U2SegPanopticFPN", "U2SegSemSegFPNHead"]
