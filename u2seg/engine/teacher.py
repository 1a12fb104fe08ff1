"""A trained model as a labeller of photos.

Shapes: ``H, W`` pixels of a photo as it is labelled; ``P`` predicted things; K thing and S stuff classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from u2seg.engine.checkpoint import last_checkpoint
from u2seg.engine.trained import TrainedModel
from u2seg.errors import UsageError
from u2seg.structures import MaskSet

KEY = "U2SEG.SELF_TRAINING"


class Answer(NamedTuple):
    """What the model says of one photo."""

    things: MaskSet
    """Masks bool (P, H, W)."""
    clusters: np.ndarray
    """int64 (P,) in [0, K)"""
    stuff: np.ndarray
    """uint8 (H, W): 0 for "a thing", 1..S"""
    confidence: np.ndarray
    """float32 (H, W): the probability of that class"""


class Teacher(TrainedModel):
    """The model of a round of self-training, on one device."""

    def info(self) -> dict[str, str]:
        """For the record: the architecture, and the sha256 of what decides predictions beside the weights."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
        text = "".join(node.dump() for node in (cfg.MODEL, cfg.INPUT, cfg.TEST))
        return {"model": cfg.MODEL.META_ARCHITECTURE, "config_sha256": hashlib.sha256(text.encode()).hexdigest()}

    def answer(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """Segment ``images``, uint8 (H, W, 3) RGB of any sizes, as one batch."""
        return [_answer(raw) for raw in self.predict(images)]


def _answer(raw: Mapping[str, Any]) -> Answer:
    """Detectron2's result for one photo, as arrays."""
    detections = raw["instances"]
    masks = detections.pred_masks.cpu().numpy().astype(bool)
    kept = masks.any(axis=(1, 2))
    confidence, stuff = raw["sem_seg"].float().softmax(dim=0).max(dim=0)
    return Answer(
        MaskSet(masks[kept], np.clip(detections.scores.float().cpu().numpy()[kept], 0, 1)),
        detections.pred_classes.cpu().numpy().astype(np.int64)[kept],
        stuff.cpu().numpy().astype(np.uint8),
        confidence.cpu().numpy(),
    )


def find_model(node: Mapping[str, Any]) -> tuple[str, str]:
    """The model's YAML and weights that ``node``, ``U2SEG.SELF_TRAINING``, names.

    Raises:
        UsageError: they are not named, or not there.
    """
    config_file, weights = node["CONFIG_FILE"], node["WEIGHTS"]
    if node["MODEL"]:
        folder = Path(node["MODEL"]).expanduser()
        config_file = config_file or str(folder / "config.yaml")
        weights = weights or last_checkpoint(folder)
        if not weights:
            raise UsageError(
                f"{KEY}.MODEL {node['MODEL']!r} holds no checkpoint; name the OUTPUT_DIR of a tools/train_net.py that "
                "has saved one"
            )
    if not config_file or not weights:
        raise UsageError(
            f"no trained model is named: set {KEY}.MODEL to the OUTPUT_DIR of tools/train_net.py, "
            f"or {KEY}.CONFIG_FILE and {KEY}.WEIGHTS"
        )
    return config_file, weights
