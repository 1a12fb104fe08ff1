"""Weights by URI, read without running anything that a file may carry, and brought to Detectron2's names.

============================ ======================================================================
``MODEL.WEIGHTS``            what it is
============================ ======================================================================
``""``                       none: random weights
``dino://resnet50``          the official DINO ResNet-50 backbone, from the hub
``detectron2://``, http(s)   a file of Detectron2's model zoo, or of anyone's
a path                       ``.pkl`` of Detectron2; ``.pth`` of Detectron2, U2Seg, DINO or torchvision
============================ ======================================================================
"""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from u2seg.errors import DataError, UsageError, lookup

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

DINO_URLS = {
    "resnet50": "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
}
BACKBONE = "backbone.bottom_up."

_ARRAY_PARTS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}


def local_file(uri: str) -> Path:
    """The file that ``uri`` names, downloaded into iopath's cache if need be.

    Raises:
        UsageError: there is none.
    """
    scheme, _, name = uri.partition("://")
    if not name and not Path(uri).is_file():
        raise UsageError(f"weights {uri!r} do not exist (MODEL.WEIGHTS takes a file, a URI, or '' for none)")
    url = lookup("DINO backbone", name, DINO_URLS) if scheme == "dino" else uri
    try:
        return Path(PathManager.get_local_path(url))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"weights {uri!r} can't be had from {url}: {reason}; download the file elsewhere and give its path"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file of weights as ``{"model": {name: tensor}, ...}`` with Detectron2's names.

    Only tensors, arrays and plain values are read; a file that asks for anything else is refused.

    Raises:
        UsageError: it can't be opened.
        DataError: it is damaged, holds code, or holds no weights.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  closed below; what can't be opened is not damaged
    except OSError as error:
        raise UsageError(f"weights {path} can't be read: {error.strerror}") from error
    read = _read_pickle if str(path).endswith(".pkl") else _read_torch
    try:
        with file:
            checkpoint = read(file)
    except Exception as error:  # half a file raises nearly anything
        # torch's own words advise to run what the file carries
        asked = re.search(r"[Uu]nsupported (?:global: GLOBAL|GLOBAL|class) (\S+)", str(error))
        reason = f"it asks for {asked[1]}, which is no tensor" if asked else type(error).__name__
        raise DataError(f"weights {path} are damaged or no checkpoint: {reason}") from error
    state = checkpoint["model"]
    kinds = (np.ndarray, torch.Tensor)
    if not isinstance(state, dict) or not state or not all(isinstance(value, kinds) for value in state.values()):
        raise DataError(f"weights {path} hold no table of tensors")
    return checkpoint


def _read_torch(file: BinaryIO) -> dict[str, Any]:
    """A checkpoint of Detectron2's, or the weights under ``teacher`` (DINO), ``state_dict``, or at the top."""
    # DINO's full checkpoints keep the command line, and some of Detectron2's a numpy number.
    multiarray = (getattr(np, "_core", None) or np.core).multiarray
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")}
    allowed = [argparse.Namespace, np.dtype, np.ndarray, *kinds, multiarray.scalar, multiarray._reconstruct]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(file, map_location="cpu", weights_only=True)
    key = next((key for key in ("model", "teacher", "state_dict") if isinstance(content.get(key), dict)), "")
    rest = content if key == "model" else {}
    return {**rest, "model": to_detectron2(content[key] if key else content)}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"unsupported class {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(file: BinaryIO) -> dict[str, Any]:
    """A Detectron2 ``.pkl``; one of Detectron's or Caffe2's is marked as such."""
    content = _ArrayUnpickler(file, encoding="latin1").load()
    if "model" in content:
        return {"matching_heuristics": True, **content}
    weights = content.get("blobs", content)
    state = {key: value for key, value in weights.items() if not key.endswith("_momentum")}
    return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}


def to_detectron2(state: dict[str, Any]) -> dict[str, Any]:
    """Rename a ResNet of torchvision's or DINO's to Detectron2's FPN backbone; anything else is returned as it is."""
    state = {re.sub(r"^(module\.)?(backbone\.)?(?=(conv1|bn1|layer\d|fc)\.)", "", k): v for k, v in state.items()}
    if "conv1.weight" not in state or not any(key.startswith("layer1.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return {
        BACKBONE + _rename(key): value
        for key, value in state.items()
        if key.startswith(("conv1.", "bn1.", "layer")) and not key.endswith("num_batches_tracked")
    }


def _rename(key: str) -> str:
    """``layer1.0.bn2.weight`` to ``res2.0.conv2.norm.weight``."""
    if not key.startswith("layer"):
        key = f"stem.{key}"
    key = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
    key = re.sub(r"bn(\d)", r"conv\1.norm", key)
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def class_counts(state: dict[str, Any]) -> tuple[int, int]:
    """Thing classes, and semantic classes ("a thing" included), that a model's weights are made for; 0 for unknown."""
    things = semantic = 0
    for key, value in state.items():
        if re.fullmatch(r"roi_heads\.box_predictor(\.\d+)?\.cls_score\.weight", key):
            things = int(value.shape[0]) - 1
        elif key == "sem_seg_head.predictor.weight":
            semantic = int(value.shape[0])
    return things, semantic


def class_counts_from_weights(cfg: CfgNode) -> None:
    """Fill class counts that neither config nor dataset told from ``MODEL.WEIGHTS``.

    Raises:
        UsageError: it does not tell either.
    """
    nodes = cfg.MODEL.ROI_HEADS, cfg.MODEL.SEM_SEG_HEAD
    if all(node.NUM_CLASSES for node in nodes):
        return
    uri = cfg.MODEL.WEIGHTS
    counts = class_counts(read_checkpoint(local_file(uri))["model"]) if uri else (0, 0)
    for node, count in zip(nodes, counts, strict=True):
        node.NUM_CLASSES = node.NUM_CLASSES or count
    if not all(node.NUM_CLASSES for node in nodes):
        raise UsageError(
            "the number of classes is unknown: name a training set (DATASETS.TRAIN), trained weights (MODEL.WEIGHTS), "
            "or set MODEL.ROI_HEADS.NUM_CLASSES and MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        )
