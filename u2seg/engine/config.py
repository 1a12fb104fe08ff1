"""The config of training and prediction: Detectron2's with this project's keys, fit to the machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode

from u2seg.config import add_u2seg_config, check_bounds, fill
from u2seg.engine.checkpoint import class_counts_from_weights
from u2seg.errors import UsageError, lookup, within
from u2seg.plugins.registry import add_plugin_config, register_detectron2

logger = logging.getLogger(__name__)


def get_cfg() -> CfgNode:
    """Detectron2's default config with every key of this project."""
    from detectron2.config import get_cfg as get_detectron2_cfg

    import u2seg.modeling  # noqa: F401  registers what META_ARCHITECTURE and its kin name

    cfg = get_detectron2_cfg()
    add_u2seg_config(cfg)
    add_plugin_config(cfg)
    return cfg


def load_config(config_file: str = "", options: Sequence[str] = ()) -> CfgNode:
    """`get_cfg` filled from a YAML file and ``KEY VALUE`` pairs.

    Raises:
        UsageError: the file, a key or a value can't be taken.
    """
    cfg = get_cfg()
    fill(cfg, config_file, options)
    check_bounds(cfg)
    return cfg


def check_names(cfg: CfgNode) -> None:
    """Look up what ``cfg`` names in Detectron2's registries, those of plugins included.

    Raises:
        UsageError: a name is in none; the message has the nearest.
    """
    from detectron2 import modeling
    from detectron2.modeling import roi_heads

    registries = {
        "BACKBONE": ("backbone", modeling.BACKBONE_REGISTRY),
        "PROPOSAL_GENERATOR": ("proposal generator", modeling.PROPOSAL_GENERATOR_REGISTRY),
        "ROI_HEADS": ("ROI heads", modeling.ROI_HEADS_REGISTRY),
        "ROI_BOX_HEAD": ("box head", roi_heads.ROI_BOX_HEAD_REGISTRY),
        "ROI_MASK_HEAD": ("mask head", roi_heads.ROI_MASK_HEAD_REGISTRY),
        "SEM_SEG_HEAD": ("semantic head", modeling.SEM_SEG_HEADS_REGISTRY),
    }
    lookup("model (MODEL.META_ARCHITECTURE)", cfg.MODEL.META_ARCHITECTURE, dict(modeling.META_ARCH_REGISTRY))
    for group, (kind, registry) in registries.items():
        name = cfg.MODEL[group].NAME
        if name not in ("", "PrecomputedProposals"):  # a head that is not used; proposals that no module makes
            lookup(f"{kind} (MODEL.{group}.NAME)", name, dict(registry))


def set_confidence(cfg: CfgNode, confidence: float) -> None:
    """Set the three keys of Detectron2's demo that hold the smallest score, in [0, 1], of a thing."""
    within("the confidence threshold", confidence, 0, 1)
    for node in (cfg.MODEL.RETINANET, cfg.MODEL.ROI_HEADS):
        node.SCORE_THRESH_TEST = float(confidence)
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = float(confidence)


def prediction_config(cfg: CfgNode) -> CfgNode:
    """A frozen copy of ``cfg`` with every key of this project, fit for this machine, its class counts known.

    Raises:
        UsageError: it describes no model that can segment here.
    """
    register_detectron2()
    full = get_cfg()
    try:
        full.merge_from_other_cfg(cfg)
    except (KeyError, ValueError, AssertionError) as error:
        raise UsageError(f"config: {error.args[0] if error.args else error}") from error
    check_names(full)
    if not full.MODEL.WEIGHTS:
        raise UsageError("MODEL.WEIGHTS is empty: name the file of a trained model, see docs/predict.md")
    if not full.MODEL.MASK_ON:
        raise UsageError("MODEL.MASK_ON is False: a model without masks can't segment; set it to True")
    lookup("INPUT.FORMAT", full.INPUT.FORMAT, dict.fromkeys(("RGB", "BGR")))
    try:
        torch.device(full.MODEL.DEVICE)
        fit_to_devices(full, world_size=1, has_gpu=torch.cuda.is_available(), training=False)
        torch.empty(0, device=full.MODEL.DEVICE)
    except RuntimeError as error:
        raise UsageError(
            f"MODEL.DEVICE {full.MODEL.DEVICE!r} is no device of this machine; use cpu, cuda or cuda:N"
        ) from error
    class_counts_from_weights(full)
    full.freeze()
    return full


def fit_to_devices(cfg: CfgNode, world_size: int, has_gpu: bool, training: bool = True) -> None:
    """Change in place what ``cfg`` asks for and this machine does not have, and log it.

    There are ``world_size`` processes, each with a GPU if ``has_gpu``. Unless ``training``, what makes no difference to
    a prediction is not logged.
    """
    level = logging.INFO if training else logging.DEBUG
    if not has_gpu and cfg.MODEL.DEVICE != "cpu":
        logger.info("No GPU is used: MODEL.DEVICE %s becomes cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if on_cpu and cfg.SOLVER.AMP.ENABLED:
        if cpu_has_bfloat16():
            logger.log(level, "SOLVER.AMP: bfloat16, which this CPU has instructions for")
        else:
            logger.log(level, "SOLVER.AMP.ENABLED becomes False: no gain on this CPU")
            cfg.SOLVER.AMP.ENABLED = False
    if world_size == 1 or on_cpu:
        # torch's SyncBN needs GPUs; Detectron2's slower one works on CPUs too, and has the same weights.
        norm = "BN" if world_size == 1 else "naiveSyncBN"
        groups = {name: group for name, group in cfg.MODEL.items() if isinstance(group, CfgNode)}
        changed = [name for name, group in groups.items() if group.get("NORM") == "SyncBN"]
        for name in changed:
            groups[name].NORM = norm
        if changed:
            where = "a single device" if world_size == 1 else "CPUs"
            logger.log(level, "SyncBN becomes %s on %s: MODEL.{%s}.NORM", norm, where, ",".join(changed))


def cpu_has_bfloat16() -> bool:
    """Whether bfloat16 is faster than float32 on this CPU, and not only possible."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
    return bool(supported and supported())
