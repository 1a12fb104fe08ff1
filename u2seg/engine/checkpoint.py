"""Checkpoints and weights: named by URI, read safely, refused in words, written whole or not at all.

============================ ======================================================================
``MODEL.WEIGHTS``            what it is
============================ ======================================================================
``""``                       none: random weights
``dino://resnet50``          the official DINO ResNet-50 backbone, from the hub
``detectron2://``, http(s)   a file of Detectron2's model zoo, or of anyone's
a path                       ``.pkl`` of Detectron2; ``.pth`` or ``.safetensors`` of any of these names:
                             Detectron2's, U2Seg's, DINO's, torchvision's
============================ ======================================================================
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode

from u2seg.engine.output_dir import LAST
from u2seg.errors import DataError, UsageError, lookup
from u2seg.files import in_words, write_bytes
from u2seg.weights_file import read_weights, write_weights

DINO_URLS = {"resnet50": "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"}


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

    Raises:
        UsageError: it can't be opened.
        DataError: it is damaged, holds code, or holds no weights; see `u2seg.weights_file`.
    """
    content = read_weights(path)
    content = content if isinstance(content, dict) else {}
    checkpoint = _from_zoo(content) if str(path).endswith(".pkl") else _from_torch(content)
    state = checkpoint["model"]
    pairs = state.items() if isinstance(state, dict) else ()
    if not pairs or not all(isinstance(k, str) and isinstance(v, (np.ndarray, torch.Tensor)) for k, v in pairs):
        raise DataError(f"weights {path} hold no table of tensors")
    return checkpoint | {"model": to_detectron2(state)}


def _from_torch(content: dict[Any, Any]) -> dict[str, Any]:
    """A checkpoint of Detectron2's, or the weights under ``teacher`` (DINO), ``state_dict``, or at the top."""
    key = next((key for key in ("model", "teacher", "state_dict") if isinstance(content.get(key), dict)), "")
    rest = content if key == "model" else {}
    return {**rest, "model": content[key] if key else content}


def _from_zoo(content: dict[Any, Any]) -> dict[str, Any]:
    """A Detectron2 ``.pkl``; one of Detectron's or Caffe2's is marked as such."""
    if "model" in content:
        return {"matching_heuristics": True, **content}
    weights = content.get("blobs", content)
    if isinstance(weights, dict):
        weights = {key: value for key, value in weights.items() if not str(key).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def to_detectron2(state: dict[str, Any]) -> dict[str, Any]:
    """Rename a ResNet of torchvision's or DINO's to Detectron2's FPN backbone; anything else is returned as it is.

    So ``layer1.0.bn2.weight`` becomes ``backbone.bottom_up.res2.0.conv2.norm.weight``.
    """
    state = {re.sub(r"^(module\.)?(backbone\.)?(?=(conv1|bn1|layer\d|fc)\.)", "", k): v for k, v in state.items()}
    if not {"conv1.weight", "layer1.0.conv1.weight"} <= state.keys():
        return {key.removeprefix("module."): value for key, value in state.items()}
    renamed = {}
    for key, value in state.items():
        if key.startswith(("conv1.", "bn1.", "layer")) and not key.endswith("num_batches_tracked"):
            name = re.sub(r"^(?=conv1|bn1)", "stem.", key)
            name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
            name = re.sub(r"bn(\d)", r"conv\1.norm", name)
            name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
            renamed[f"backbone.bottom_up.{name}"] = value
    return renamed


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


class U2SegCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the URIs above and errors that a user can act on."""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model, and the named ``checkpointables`` (all if None), from a file or URI; "" loads nothing.

        Raises:
            UsageError: there is no such file.
            DataError: it is damaged, made for other class counts, or for another model altogether.
        """
        return super().load(str(local_file(path)) if path else path, checkpointables)

    def load_trained(self, path: str) -> None:
        """Load the model from ``path``, which must have every tensor of it.

        Raises:
            DataError: one is missing or of another shape; or as `load`.
        """
        incompatible = self._load_model(self._load_file(str(local_file(path))))
        misshapen = [key for key, *_ in incompatible.incorrect_shapes]
        unfit = [*incompatible.missing_keys, *misshapen]
        if unfit:
            what = "is of another shape" if unfit[0] in misshapen else "is missing"
            raise DataError(
                f"weights {path!r} are no trained model of this config: {unfit[0]} {what} "
                f"({len(unfit)} of {len(self.model.state_dict())} tensors do not fit)"
            )
        self._log_incompatible_keys(incompatible)

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename)
        state, expected_state = checkpoint["model"], self.model.state_dict()
        kinds = ("thing classes", "semantic classes")
        for count, expected, kind in zip(class_counts(state), class_counts(expected_state), kinds, strict=True):
            if count and expected and count != expected:
                raise DataError(
                    f"weights {filename!r} are made for {count} {kind}, but the model has {expected}, as its dataset "
                    "or config says"
                )
        if not checkpoint.get("matching_heuristics") and not expected_state.keys() & state.keys():
            some = ", ".join(list(state)[:3])
            raise DataError(f"weights {filename!r} have no tensor that this model has; theirs begin with {some}")
        return checkpoint

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth``, whole or not at all, then point ``last_checkpoint`` at it.

        Raises:
            UsageError: it can't be written; what was there before is still whole.
            OSError: so it is where the disk is full or broken.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        write_weights(file, content | kwargs)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of this directory."""
        file = Path(self.save_dir) / LAST
        with in_words(file):
            write_bytes(file, last_filename_basename.encode())
