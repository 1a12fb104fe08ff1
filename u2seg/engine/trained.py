"""A trained model: a config with all of its weights, and what it says of photos in Detectron2's own words.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels the network sees.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import transforms as T  # noqa: N812
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from PIL import Image

from u2seg.engine.checkpoint import U2SegCheckpointer
from u2seg.engine.config import fit_to_devices, get_cfg, load_config
from u2seg.engine.weights import class_counts_from_weights
from u2seg.errors import DataError, UsageError, lookup
from u2seg.images import read_image
from u2seg.plugins.registry import register_detectron2
from u2seg.structures import LabelSpace

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode
    from typing_extensions import Self

ImageLike = str | os.PathLike[str] | np.ndarray | Image.Image
"""A path, uint8 (H, W, 3) RGB, or a Pillow image."""


class TrainedModel:
    """A panoptic model with all of its weights, in evaluation mode."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build the model of ``cfg``, Detectron2's with or without the keys of this project; it is not changed.

        Raises:
            U2SegError: config or weights can't be used.
        """
        self.cfg = complete_config(cfg)
        self.space = LabelSpace(self.cfg.MODEL.ROI_HEADS.NUM_CLASSES, self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1)
        classes = {name: kind for name, kind in META_ARCH_REGISTRY if isinstance(kind, type)}
        panoptic = {name: kind for name, kind in classes.items() if issubclass(kind, PanopticFPN)}
        lookup("panoptic model (MODEL.META_ARCHITECTURE)", self.cfg.MODEL.META_ARCHITECTURE, panoptic)
        self.model = build_model(self.cfg).eval()
        U2SegCheckpointer(self.model).load_trained(self.cfg.MODEL.WEIGHTS)

    @classmethod
    def from_config(
        cls,
        config_file: str | os.PathLike[str],
        weights: str | os.PathLike[str] = "",
        *,
        confidence: float | None = None,
        device: str = "auto",
        opts: Sequence[str] = (),
        **more: Any,
    ) -> Self:
        """Build the model of a YAML file.

        Args:
            config_file: such as ``configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml``.
            weights: in place of the config's ``MODEL.WEIGHTS``.
            confidence: smallest score in [0, 1] of a thing that is shown; by default what the config says.
            device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one.
            opts: ``KEY VALUE KEY VALUE ...`` over the YAML's.
            more: further arguments of the constructor.

        Raises:
            U2SegError: one of these can't be used.
        """
        cfg = load_config(str(config_file), opts)
        if str(weights):
            cfg.MODEL.WEIGHTS = str(weights)
        if device != "auto":
            cfg.MODEL.DEVICE = device
        if confidence is not None:
            set_confidence(cfg, confidence)
        return cls(cfg, **more)

    def predict(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Detectron2's ``instances``, ``sem_seg`` and ``panoptic_seg`` for each of a batch, uint8 (H, W, 3) RGB."""
        node = self.cfg.INPUT
        batch = [
            {
                "image": to_network(image, node.FORMAT, node.MIN_SIZE_TEST, node.MAX_SIZE_TEST),
                "height": image.shape[0],
                "width": image.shape[1],
            }
            for image in images
        ]
        with torch.no_grad():
            return self.model(batch) if batch else []


def set_confidence(cfg: CfgNode, confidence: float) -> None:
    """Set the three keys of Detectron2's demo that hold the smallest score, in [0, 1], of a thing."""
    if not 0 <= confidence <= 1:
        raise UsageError(f"the confidence threshold is a score between 0 and 1, not {confidence}")
    for node in (cfg.MODEL.RETINANET, cfg.MODEL.ROI_HEADS):
        node.SCORE_THRESH_TEST = float(confidence)
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = float(confidence)


def complete_config(cfg: CfgNode) -> CfgNode:
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
    if not full.MODEL.WEIGHTS:
        raise UsageError("MODEL.WEIGHTS is empty: name the file of a trained model, see docs/predict.md")
    if not full.MODEL.MASK_ON:
        raise UsageError("MODEL.MASK_ON is False: a model without masks can't segment; set it to True")
    if full.INPUT.FORMAT not in ("RGB", "BGR"):
        raise UsageError(f"INPUT.FORMAT {full.INPUT.FORMAT!r} is no order of channels; use RGB or BGR")
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


def load_image(image: ImageLike) -> np.ndarray:
    """``image`` as uint8 (H, W, 3) RGB, turned as its EXIF says if it is a file.

    Raises:
        DataError: it can't be read, or is no image.
    """
    if isinstance(image, (str, os.PathLike)):
        try:
            return read_image(image)
        except DataError as error:
            raise DataError(f"photo {os.fspath(image)}: {error}") from error
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"an image must be uint8 (H, W, 3), not {what}")
    if not image.size:
        raise DataError(f"the image has no pixels: {image.shape}")
    return image


def to_network(image: np.ndarray, image_format: str, shortest: int, longest: int) -> torch.Tensor:
    """RGB ``image`` uint8 (H, W, 3) as the network takes it, float32 (3, h, w), 0..255, resized as by Detectron2.

    Args:
        image: the photo.
        image_format: channel order of the network, ``INPUT.FORMAT``: "RGB" or "BGR".
        shortest: pixels of the shorter side, ``INPUT.MIN_SIZE_TEST``; 0 leaves the size as it is.
        longest: most pixels of the longer side, ``INPUT.MAX_SIZE_TEST``.
    """
    if image_format == "BGR":
        image = image[:, :, ::-1]
    if shortest:
        height, width = image.shape[:2]
        h, w = T.ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        image = T.ResizeTransform(height, width, max(h, 1), max(w, 1)).apply_image(image)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
