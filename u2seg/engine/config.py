"""The config of training and prediction: Detectron2's, this project's keys, and errors in words.

`add_train_config` adds what the model, the mapper and the loader read beside Detectron2's own keys.
"""

from __future__ import annotations

import ast
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from u2seg.config import add_u2seg_config
from u2seg.errors import UsageError, closest

logger = logging.getLogger(__name__)

DATASET_KEYS = {"TRAIN", "TEST"}
STUFF_HEADS = ("STEGO", "CAUSE")
"""Meta-architectures that learn a stuff segmenter, not a panoptic model."""
_CONFIG_ERRORS = (KeyError, ValueError, AssertionError, AttributeError, TypeError)


def add_train_config(cfg: CfgNode) -> None:
    """Add the training keys, with their defaults, to Detectron2's config ``cfg``; again, it does nothing."""
    if "DATASET_MAPPER_NAME" in cfg.INPUT:
        return
    node = type(cfg)
    # Entry of u2seg.data.mapper.DATASET_MAPPERS.
    cfg.INPUT.DATASET_MAPPER_NAME = "U2SegDatasetMapper"

    # Large-scale jitter (Simple Copy-Paste, CVPR 2021) in place of MIN_SIZE_TRAIN: the photo is resized to fit
    # SIZE x SIZE pixels times a random factor, then cropped or padded to SIZE x SIZE.
    cfg.INPUT.LARGE_SCALE_JITTER = node()
    cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    cfg.INPUT.LARGE_SCALE_JITTER.MIN_SCALE = 0.1
    cfg.INPUT.LARGE_SCALE_JITTER.MAX_SCALE = 2.0
    cfg.INPUT.LARGE_SCALE_JITTER.SIZE = 1024

    # Things of another photo of the batch are pasted on, shrunk by a random factor (CutLER: 0.3 to 1.0).
    cfg.INPUT.COPY_PASTE = node()
    cfg.INPUT.COPY_PASTE.ENABLED = False
    # Share of photos that get something pasted.
    cfg.INPUT.COPY_PASTE.PROBABILITY = 1.0
    cfg.INPUT.COPY_PASTE.MIN_SCALE = 0.3
    cfg.INPUT.COPY_PASTE.MAX_SCALE = 1.0

    # 0 takes the class counts from the training set's panoptic.json (or from the checkpoint, where there is none).
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 0

    # Departures from the paper's losses; all off there.
    cfg.MODEL.U2SEG = node()
    # DropLoss (CutLER, section 3.3; there 0.01): no loss for regions whose best IoU with a label is not above this;
    # 0 is off.
    cfg.MODEL.U2SEG.DROP_LOSS_IOU = 0.0
    # No loss for background regions of which more than this share is unlabelled; 0 is off.
    cfg.MODEL.U2SEG.IGNORE_UNLABELLED = 0.0
    # Weigh the losses of a region by the score of the label that it matches.
    cfg.MODEL.U2SEG.SCORE_WEIGHTED = False


def get_cfg() -> CfgNode:
    """Detectron2's default config with every key of this project."""
    from detectron2.config import get_cfg as get_detectron2_cfg

    import u2seg.modeling  # noqa: F401  registers what META_ARCHITECTURE and its kin name

    cfg = get_detectron2_cfg()
    add_u2seg_config(cfg)
    return cfg


def load_config(config_file: str = "", options: Sequence[str] = ()) -> CfgNode:
    """`get_cfg` filled from a YAML file and ``KEY VALUE`` pairs.

    Raises:
        UsageError: the file, a key or a value can't be taken.
    """
    cfg = get_cfg()
    node = type(cfg)
    if config_file:
        if not Path(config_file).is_file():
            raise UsageError(f"--config-file {config_file!r} does not exist")
        try:
            loaded = node(node.load_yaml_with_base(config_file))
            for key in DATASET_KEYS & loaded.get("DATASETS", node()).keys():
                loaded.DATASETS[key] = _as_names(loaded.DATASETS[key])
            cfg.merge_from_other_cfg(loaded)
        except (*_CONFIG_ERRORS, yaml.YAMLError, OSError) as error:
            raise UsageError(f"{config_file}: {_in_words(error, cfg)}") from error
    if len(options) % 2:
        raise UsageError(f"config options come as KEY VALUE; {options[-1]!r} has no value")
    datasets = {f"DATASETS.{key}" for key in DATASET_KEYS}
    pairs = zip(options[::2], options[1::2], strict=True)
    filled = [(key, repr(_as_names(value)) if key in datasets else value) for key, value in pairs]
    try:
        cfg.merge_from_list([part for pair in filled for part in pair])
    except _CONFIG_ERRORS as error:
        raise UsageError(f"config options: {_in_words(error, cfg)}") from error
    return cfg


def _as_names(value: Any) -> tuple[str, ...]:
    """Datasets as a tuple, where one may be typed as its bare path."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    return tuple(map(str, value)) if isinstance(value, (tuple, list)) else (str(value),)


def _in_words(error: Exception, cfg: CfgNode) -> str:
    """One line for what Detectron2 raised, with the nearest key where one was unknown."""
    if isinstance(error, OSError):
        return f"{error.filename!r}: {error.strerror}"
    text = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
    prefix = "Non-existent key: " if "key: " in text else "Non-existent config key: "
    if not isinstance(error, (KeyError, AssertionError)) or "Non-existent" not in text:
        return text
    key = text.removeprefix(prefix).removeprefix("Non-existent config key: ")
    return f"no config key {key!r}.{closest(key, _keys(cfg))}"


def _keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    found = []
    for key, value in cfg.items():
        found += _keys(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [f"{prefix}{key}"]
    return found


def fit_to_devices(cfg: CfgNode, world_size: int, has_gpu: bool, training: bool = True) -> None:
    """Change in place what ``cfg`` asks for and this machine does not have, and log it.

    Args:
        cfg: the config.
        world_size: number of processes.
        has_gpu: whether each of them has one.
        training: whether the model shall learn; else what makes no difference to a prediction is not logged.
    """
    level = logging.INFO if training else logging.DEBUG
    if not has_gpu and cfg.MODEL.DEVICE != "cpu":
        logger.info("No GPU is used: MODEL.DEVICE %s becomes cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if on_cpu and cfg.SOLVER.AMP.ENABLED:
        if cpu_has_bfloat16() and cfg.MODEL.META_ARCHITECTURE not in STUFF_HEADS:
            logger.log(level, "SOLVER.AMP: bfloat16, which this CPU has instructions for")
        else:
            logger.log(level, "SOLVER.AMP.ENABLED becomes False: no gain on this CPU")
            cfg.SOLVER.AMP.ENABLED = False
    if world_size == 1 or on_cpu:
        # torch's SyncBN needs GPUs; Detectron2's slower one works on CPUs too, and has the same weights.
        norm = "BN" if world_size == 1 else "naiveSyncBN"
        changed = _replace_norms(cfg, "SyncBN", norm)
        if changed:
            where = "a single device" if world_size == 1 else "CPUs"
            logger.log(level, "SyncBN becomes %s on %s: %s", norm, where, ", ".join(changed))


def cpu_has_bfloat16() -> bool:
    """Whether bfloat16 is faster than float32 on this CPU, and not only possible."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
    return bool(supported and supported())


def _replace_norms(node: CfgNode, old: str, new: str, prefix: str = "") -> list[str]:
    changed = []
    for key, value in node.items():
        if isinstance(value, CfgNode):
            changed += _replace_norms(value, old, new, f"{prefix}{key}.")
        elif key == "NORM" and value == old:
            node[key] = new
            changed.append(f"{prefix}{key}")
    return changed
