"""The model of a config with all of its weights, or one line that says why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from u2seg.engine.checkpoint import U2SegCheckpointer
from u2seg.engine.config import fit_to_devices, get_cfg
from u2seg.engine.weights import class_counts_from_weights
from u2seg.errors import UsageError
from u2seg.plugins.registry import register_detectron2

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def set_confidence(cfg: CfgNode, confidence: float) -> None:
    """Set the three keys of Detectron2's demo that hold the smallest score, in [0, 1], of a thing.

    Raises:
        UsageError: it is not in [0, 1].
    """
    if not 0 <= confidence <= 1:
        raise UsageError(f"the confidence threshold is a score between 0 and 1, not {confidence}")
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = float(confidence)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(confidence)
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = float(confidence)


def complete_config(cfg: CfgNode) -> CfgNode:
    """A frozen copy of ``cfg`` with every key of this project, fit for this machine, its class counts known.

    Raises:
        UsageError: it describes no panoptic model, or no trained one.
    """
    register_detectron2()
    full = get_cfg()
    try:
        full.merge_from_other_cfg(cfg)
    except (KeyError, ValueError, AssertionError) as error:
        raise UsageError(f"config: {error.args[0] if error.args else error}") from error
    if not full.MODEL.WEIGHTS:
        raise UsageError("MODEL.WEIGHTS is empty: name the file of a trained model, see docs/predict.md")
    if not full.MODEL.MASK_ON:
        raise UsageError("MODEL.MASK_ON is False: a model without masks can't segment; set it to True")
    if full.INPUT.FORMAT not in ("RGB", "BGR"):
        raise UsageError(f"INPUT.FORMAT {full.INPUT.FORMAT!r} is no order of channels; use RGB or BGR")
    _check_device(full.MODEL.DEVICE)
    fit_to_devices(full, world_size=1, has_gpu=torch.cuda.is_available(), training=False)
    class_counts_from_weights(full)
    full.freeze()
    return full


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"MODEL.DEVICE {name!r} is no device; use cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and count and (device.index or 0) >= count:
        raise UsageError(f"MODEL.DEVICE {name!r}: this machine has {count} GPUs, from cuda:0")


def build_trained_model(cfg: CfgNode) -> torch.nn.Module:
    """The model of ``cfg`` with all of its weights, in evaluation mode.

    Raises:
        U2SegError: it is no panoptic model, or the weights do not fit it.
    """
    from detectron2.modeling import META_ARCH_REGISTRY, build_model
    from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN

    name = cfg.MODEL.META_ARCHITECTURE
    architecture = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    if not isinstance(architecture, type) or not issubclass(architecture, PanopticFPN):
        raise UsageError(f"MODEL.META_ARCHITECTURE {name!r} is no panoptic model; U2SegPanopticFPN and PanopticFPN are")
    model = build_model(cfg.clone()).eval()
    U2SegCheckpointer(model).load_trained(cfg.MODEL.WEIGHTS)
    return model
