"""Weights by URI, read without running anything that a file may carry, and brought to Detectron2's names.

============================ =====================================================================================
``MODEL.WEIGHTS``            what it is
============================ =====================================================================================
``""``                       none: random weights
``dino://resnet50``          the official DINO ResNet-50 backbone, from the hub
``torchvision://resnet50``   a ResNet of torchvision's, from its hub
``detectron2://``, http(s)   a file of Detectron2's model zoo, or of anyone's
a path                       ``.pkl`` of Detectron2; ``.pth`` of Detectron2, U2Seg, DINO or torchvision
============================ =====================================================================================
"""

from __future__ import annotations

import argparse
import collections
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from u2seg.errors import DataError, UsageError, lookup

logger = logging.getLogger(__name__)

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
    url = uri
    scheme, _, name = uri.partition("://")
    if scheme == "dino" and name:
        url = lookup("DINO backbone", name, DINO_URLS)
    elif scheme == "torchvision" and name:
        url = _torchvision_url(name)
    elif not name and not Path(uri).is_file():
        raise UsageError(f"weights {uri!r} do not exist (MODEL.WEIGHTS takes a file, a URI, or '' for none)")
    try:
        return Path(PathManager.get_local_path(url))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"weights {uri!r} can't be had from {url}: {reason}; download the file elsewhere and give its path"
        ) from error


def _torchvision_url(name: str) -> str:
    from torchvision import models

    names = {model: model for model in models.list_models(module=models) if model.startswith("resnet")}
    return models.get_model_weights(lookup("torchvision ResNet", name, names)).DEFAULT.url


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file of weights as ``{"model": {name: tensor}, ...}`` with Detectron2's names.

    Only tensors, arrays and plain values are read; a file that asks for anything else is refused.

    Raises:
        DataError: it is damaged, holds code, or holds no weights.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UsageError(f"weights {path} can't be read: {error.strerror}") from error
    try:
        content = _read_pickle(path) if str(path).endswith(".pkl") else _read_torch(path)
    except Exception as error:  # half a file raises nearly anything, OSError (a seek beyond its end) included
        raise DataError(f"weights {path} are damaged or no checkpoint: {_reason(error)}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"weights {path} hold no table of tensors")
    if str(path).endswith(".pkl"):
        return _from_pickle(content)
    checkpoint = content if isinstance(content.get("model"), dict) else {"model": _find_state(content)}
    checkpoint["model"] = to_detectron2(checkpoint["model"])
    if not checkpoint["model"] or not all(isinstance(v, torch.Tensor) for v in checkpoint["model"].values()):
        raise DataError(f"weights {path} hold no table of tensors")
    return checkpoint


def _reason(error: Exception) -> str:
    """One line of what a reader raised, without torch's advice to run what the file carries."""
    text = " ".join(str(error).split())
    if isinstance(error, (EOFError, OSError)) or "central directory" in text:
        return "it ends too early"
    asked = re.search(r"[Uu]nsupported (?:global: GLOBAL|GLOBAL|class) (\S+)", text)
    if asked:
        return f"it asks for {asked[1]}, which is no tensor"
    return text.partition(". ")[0][:200] or type(error).__name__


def _read_torch(path: str | Path) -> Any:
    # DINO's full checkpoints keep the command line, and some of Detectron2's a numpy number.
    plain: list[Any] = [
        argparse.Namespace,
        np.dtype,
        np.ndarray,
        *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")},
    ]
    multiarray = getattr(np, "_core", None) or np.core
    plain += [multiarray.multiarray.scalar, multiarray.multiarray._reconstruct]
    with torch.serialization.safe_globals(plain):
        return torch.load(path, map_location="cpu", weights_only=True)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return super().find_class(module, name)


def _read_pickle(path: str | Path) -> Any:
    with open(path, "rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


def _from_pickle(content: dict[str, Any]) -> dict[str, Any]:
    """A Detectron2 ``.pkl`` as it is; one of Detectron's or Caffe2's marked as such."""
    if "model" in content:
        return {"matching_heuristics": True, **content}
    weights = content.get("blobs", content)
    state = {key: value for key, value in weights.items() if not key.endswith("_momentum")}
    return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}


def _find_state(content: dict[str, Any]) -> dict[str, Any]:
    """The weights of a file that has none under ``model``: DINO's teacher, a ``state_dict``, or the file itself."""
    for key in ("teacher", "state_dict"):
        if isinstance(content.get(key), dict):
            return content[key]
    return content


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
    key = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", key)
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
