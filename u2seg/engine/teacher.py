"""A trained model as a labeller of photos.

Shapes: ``H, W`` pixels of a photo as it is labelled; ``P`` predicted things; K thing and S stuff classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import UsageError
from u2seg.structures import LabelSpace, MaskSet

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

KEY = "U2SEG.SELF_TRAINING"


@dataclass(frozen=True)
class Answer:
    """What the model says of one photo."""

    things: MaskSet
    """Masks bool (P, H, W)."""
    clusters: np.ndarray
    """int64 (P,) in [0, K)"""
    stuff: np.ndarray
    """uint8 (H, W): 0 for "a thing", 1..S"""
    confidence: np.ndarray
    """float32 (H, W): the probability of that class"""


class Teacher:
    """The model, on one device."""

    def __init__(self, config_file: str, weights: str, device: str, min_score: float) -> None:
        """Build the model and load its weights.

        Args:
            config_file: the model's YAML.
            weights: a file or URI.
            device: of torch.
            min_score: things with a score of this or less are not wanted.

        Raises:
            U2SegError: config or weights can't be taken.
        """
        from u2seg.engine.config import load_config
        from u2seg.engine.trained import build_trained_model, complete_config

        cfg = load_config(config_file)
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = weights, device
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(min_score)
        self.cfg = complete_config(cfg)
        self.model = build_trained_model(self.cfg)

    @property
    def space(self) -> LabelSpace:
        """K and S."""
        model = self.cfg.MODEL
        return LabelSpace(model.ROI_HEADS.NUM_CLASSES, model.SEM_SEG_HEAD.NUM_CLASSES - 1)

    def info(self) -> dict[str, str]:
        """For the record: the architecture, and the sha256 of what decides predictions beside the weights."""
        return {"model": self.cfg.MODEL.META_ARCHITECTURE, "config_sha256": _fingerprint(self.cfg)}

    def answer(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """Segment ``images``, uint8 (H, W, 3) RGB of any sizes, as one batch."""
        import torch

        from u2seg.engine.predictor import to_network

        node = self.cfg.INPUT
        batch = [
            {
                "image": to_network(image, node.FORMAT, node.MIN_SIZE_TEST, node.MAX_SIZE_TEST),
                "height": image.shape[0],
                "width": image.shape[1],
            }
            for image in images
        ]
        if not batch:
            return []
        with torch.no_grad():
            return [_answer(raw) for raw in self.model(batch)]


def _answer(raw: Mapping[str, Any]) -> Answer:
    """Detectron2's result for one photo, as arrays."""
    found = raw["instances"]
    masks = found.pred_masks.cpu().numpy().astype(bool)
    kept = masks.any(axis=(1, 2))
    confidence, stuff = raw["sem_seg"].float().softmax(dim=0).max(dim=0)
    return Answer(
        MaskSet(masks[kept], np.clip(found.scores.float().cpu().numpy()[kept], 0, 1)),
        found.pred_classes.cpu().numpy().astype(np.int64)[kept],
        stuff.cpu().numpy().astype(np.uint8),
        confidence.cpu().numpy(),
    )


def _fingerprint(cfg: CfgNode) -> str:
    """sha256 of the groups of ``cfg`` that decide predictions, apart from weights and device."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    text = "".join(node.dump() for node in (cfg.MODEL, cfg.INPUT, cfg.TEST))
    return hashlib.sha256(text.encode()).hexdigest()


def find_model(node: Mapping[str, Any]) -> tuple[str, str]:
    """The model's YAML and weights.

    Args:
        node: ``U2SEG.SELF_TRAINING``.

    Raises:
        UsageError: they are not named, or not there.
    """
    config_file, weights = node["CONFIG_FILE"], node["WEIGHTS"]
    if node["MODEL"] and not (config_file and weights):
        folder = Path(node["MODEL"]).expanduser()
        what = f"{KEY}.MODEL {node['MODEL']!r}"
        if not folder.is_dir():
            raise UsageError(f"{what} is no folder; it is the OUTPUT_DIR of tools/train_net.py")
        config_file = config_file or str(_must_exist(folder / "config.yaml", what))
        weights = weights or str(_last_checkpoint(folder, what))
    if not config_file or not weights:
        raise UsageError(
            f"no trained model is named: set {KEY}.MODEL to the OUTPUT_DIR of tools/train_net.py, "
            f"or {KEY}.CONFIG_FILE and {KEY}.WEIGHTS"
        )
    return config_file, weights


def _must_exist(file: Path, what: str) -> Path:
    if not file.is_file():
        raise UsageError(f"{what} holds no {file.name}; it is the OUTPUT_DIR of tools/train_net.py")
    return file


def _last_checkpoint(folder: Path, what: str) -> Path:
    """What ``last_checkpoint`` names, wherever the folder lies now."""
    name = _must_exist(folder / "last_checkpoint", f"{what} (has it saved a checkpoint yet?)").read_text("utf-8")
    return _must_exist(folder / Path(name.strip()).name, what)
