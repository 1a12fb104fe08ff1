"""A trained model, ready for photos: `Predictor`, and the classes of Detectron2's demo over it.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels the network sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import transforms as T  # noqa: N812
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.utils.visualizer import ColorMode
from PIL import Image

from u2seg.engine.checkpoint import U2SegCheckpointer
from u2seg.engine.config import load_config, prediction_config, set_confidence
from u2seg.engine.results import ClassNames, Instances, PredictedSegment, Prediction, names_from_matching
from u2seg.errors import DataError, lookup
from u2seg.fields import told
from u2seg.images import read_image
from u2seg.pseudo.merge import measure_segments
from u2seg.structures import LabelSpace

if TYPE_CHECKING:
    import cv2
    from fvcore.common.config import CfgNode

ImageLike = str | os.PathLike[str] | np.ndarray | Image.Image
"""A path, uint8 (H, W, 3) RGB, or a Pillow image."""


class Predictor:
    """A panoptic model with all of its weights, in evaluation mode; segments one photo per call.

    ::

        predictor = u2seg.Predictor.from_config("configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml")
        prediction = predictor("photo.jpg")
        prediction.save("photo_segments.png")
    """

    def __init__(self, cfg: CfgNode, matching: str | os.PathLike[str] = "", policy: str = "") -> None:
        """Build the model of ``cfg`` and load its weights.

        Args:
            cfg: Detectron2's with or without the keys of this project; it is not changed.
            matching: file of ``--save-matching``, to call classes by what they were matched to; else by their ids.
            policy: which matching of that file, see `names_from_matching`.

        Raises:
            U2SegError: config, weights or matching can't be used.
        """
        self.cfg = prediction_config(cfg)
        self.space = LabelSpace(self.cfg.MODEL.ROI_HEADS.NUM_CLASSES, self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1)
        models = dict(META_ARCH_REGISTRY).items()
        panoptic = {name: kind for name, kind in models if isinstance(kind, type) and issubclass(kind, PanopticFPN)}
        lookup("panoptic model (MODEL.META_ARCHITECTURE)", self.cfg.MODEL.META_ARCHITECTURE, panoptic)
        self.model = build_model(self.cfg).eval()
        U2SegCheckpointer(self.model).load_trained(self.cfg.MODEL.WEIGHTS)
        self.names = names_from_matching(matching, self.space, policy) if matching else ClassNames(self.space)

    @classmethod
    def from_config(
        cls,
        config_file: str | os.PathLike[str],
        weights: str | os.PathLike[str] = "",
        *,
        confidence: float | None = None,
        device: str = "auto",
        opts: Sequence[str] = (),
        **names: Any,
    ) -> Predictor:
        """Build the model of a YAML file.

        Args:
            config_file: such as ``configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml``.
            weights: in place of the config's ``MODEL.WEIGHTS``.
            confidence: smallest score in [0, 1] of a thing that is shown; by default what the config says.
            device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one.
            opts: ``KEY VALUE KEY VALUE ...`` over the YAML's.
            names: ``matching`` and ``policy``, as for the constructor.

        Raises:
            U2SegError: one of these can't be used.
        """
        cfg = load_config(str(config_file), opts)
        cfg.MODEL.WEIGHTS = str(weights) or cfg.MODEL.WEIGHTS
        if device != "auto":
            cfg.MODEL.DEVICE = device
        if confidence is not None:
            set_confidence(cfg, confidence)
        return cls(cfg, **names)

    def __call__(self, image: ImageLike) -> Prediction:
        """Segment one photo.

        Raises:
            DataError: it can't be read, or is no image.
        """
        pixels = load_image(image)
        return self.to_prediction(pixels, self.predict([pixels])[0])

    def predict(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Detectron2's ``instances``, ``sem_seg`` and ``panoptic_seg`` for each of a batch, uint8 (H, W, 3) RGB."""
        batch = [
            {"image": self._to_network(image), "height": image.shape[0], "width": image.shape[1]} for image in images
        ]
        with torch.no_grad():
            return self.model(batch) if batch else []

    def _to_network(self, image: np.ndarray) -> torch.Tensor:
        """``image`` uint8 (H, W, 3) RGB as the network takes it: float32 (3, h, w), 0..255, in its channel order."""
        node, (height, width) = self.cfg.INPUT, image.shape[:2]
        if node.FORMAT == "BGR":
            image = image[:, :, ::-1]
        if node.MIN_SIZE_TEST:
            h, w = T.ResizeShortestEdge.get_output_shape(height, width, node.MIN_SIZE_TEST, node.MAX_SIZE_TEST)
            image = T.ResizeTransform(height, width, max(h, 1), max(w, 1)).apply_image(image)  # a strip's h may be 0
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))

    def to_prediction(self, image: np.ndarray, raw: dict[str, Any]) -> Prediction:
        """Detectron2's result ``raw`` for ``image`` uint8 (H, W, 3) RGB, as plain arrays."""
        detections = raw["instances"]
        things = detections.pred_classes.cpu().numpy().astype(np.int64) + 1
        instances = Instances(
            masks=detections.pred_masks.cpu().numpy().astype(bool),
            boxes=detections.pred_boxes.tensor.float().cpu().numpy(),
            scores=detections.scores.float().cpu().numpy(),
            category_ids=things,
            names=tuple(self.names[index] for index in things.tolist()),
        )
        panoptic, info = raw["panoptic_seg"]
        probabilities = raw["sem_seg"].softmax(dim=0)
        categories, scores = [0], [0.0]  # of id 0, void
        for segment in info:
            label = segment["category_id"]
            if segment["isthing"]:
                categories.append(self.space.thing_category(label))
                scores.append(segment["score"])
            else:
                categories.append(self.space.stuff_category(label - 1))
                scores.append(float(probabilities[label][panoptic == segment["id"]].mean()))
        ids = panoptic.cpu().numpy().astype(np.int32)
        segments = measure_segments(ids, categories, scores, self.space)
        named = tuple(PredictedSegment(**vars(segment), name=self.names[segment.category_id]) for segment in segments)
        return Prediction(image, ids, named, instances, self.names)


def load_image(image: ImageLike) -> np.ndarray:
    """``image`` as uint8 (H, W, 3) RGB, turned as its EXIF says if it is a file.

    Raises:
        DataError: it can't be read, or is no image.
    """
    if isinstance(image, (str, os.PathLike)):
        return told(f"photo {os.fspath(image)}:", read_image, image)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise DataError(f"an image must be uint8 (H, W, 3), a path or a Pillow image, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"an image must be uint8 (H, W, 3) with a pixel at least, not {image.dtype} {image.shape}")
    return image


class BGRPredictor(DefaultPredictor):
    """Detectron2's predictor over the model of a `Predictor`: BGR in, Detectron2's dictionary out."""

    def __init__(self, predictor: Predictor) -> None:
        """Share the model of ``predictor``."""
        # Detectron2's constructor would build a second model, and accept weights that lack tensors.
        self._predictor = predictor
        self.cfg, self.model, self.space = predictor.cfg, predictor.model, predictor.space
        self.metadata = Metadata(name="u2seg_predictions", **predictor.names.metadata())
        self.input_format = self.cfg.INPUT.FORMAT

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Segment ``original_image`` uint8 (H, W, 3) BGR: ``instances``, ``sem_seg``, ``panoptic_seg``."""
        return self._predictor.predict([load_image(original_image)[:, :, ::-1]])[0]


class VisualizationDemo:
    """The class of Detectron2's demo, for those who know it: BGR in, Detectron2's predictions and a picture out."""

    def __init__(
        self, cfg: CfgNode, instance_mode: ColorMode = ColorMode.IMAGE, parallel: bool = False, **names: Any
    ) -> None:
        """Build the model of ``cfg``.

        Args:
            cfg: as for `Predictor`.
            instance_mode: ``ColorMode.IMAGE_BW`` greys what no segment covers; colours are always the classes'.
            parallel: has no effect; photos are segmented in this process.
            names: ``matching`` and ``policy``, as for `Predictor`.

        Raises:
            U2SegError: config, weights or matching can't be used.
        """
        self._predictor = Predictor(cfg, **names)
        self.predictor = BGRPredictor(self._predictor)
        self.metadata, self.instance_mode = self.predictor.metadata, instance_mode

    def run_on_image(self, image: np.ndarray) -> tuple[dict[str, Any], Prediction]:
        """Segment ``image`` uint8 (H, W, 3) BGR: Detectron2's predictions, and the picture to look at or save."""
        raw = self.predictor(image)
        prediction = self._predictor.to_prediction(np.ascontiguousarray(image[:, :, ::-1]), raw)
        return raw, replace(prediction, grey=self.instance_mode == ColorMode.IMAGE_BW)

    def run_on_video(self, video: cv2.VideoCapture) -> Iterator[np.ndarray]:
        """Segmented frames of ``video``, uint8 (H, W, 3) BGR as OpenCV's."""
        while video.isOpened():
            success, frame = video.read()
            if not success:
                return
            yield self.run_on_image(frame)[1].get_image()[:, :, ::-1]
