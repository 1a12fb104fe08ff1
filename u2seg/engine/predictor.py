"""A trained model, ready for photos: `Predictor`, and the classes of Detectron2's demo over it.

Shapes: ``H, W`` photo pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import ColorMode

from u2seg.engine.names import ClassNames, names_from_matching
from u2seg.engine.results import Instances, Prediction, make_prediction
from u2seg.engine.trained import ImageLike, TrainedModel, load_image
from u2seg.engine.visualization import save_picture

if TYPE_CHECKING:
    import cv2
    from fvcore.common.config import CfgNode


class Predictor(TrainedModel):
    """Segments one photo per call.

    ::

        predictor = u2seg.Predictor.from_config("configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml")
        prediction = predictor("photo.jpg")
        prediction.save("photo_segments.png")
    """

    def __init__(self, cfg: CfgNode, matching: str | os.PathLike[str] = "", policy: str = "") -> None:
        """Build the model of ``cfg`` and load its weights.

        Args:
            cfg: as for `TrainedModel`.
            matching: file of ``--save-matching``, to call classes by what they were matched to; else by their ids.
            policy: which matching of that file, see `names_from_matching`.

        Raises:
            U2SegError: config, weights or matching can't be used.
        """
        super().__init__(cfg)
        self.names = names_from_matching(matching, self.space, policy) if matching else ClassNames(self.space)

    def __call__(self, image: ImageLike) -> Prediction:
        """Segment one photo.

        Raises:
            DataError: it can't be read, or is no image.
        """
        pixels = load_image(image)
        return self.to_prediction(pixels, self.predict_raw(pixels))

    def predict_raw(self, image: np.ndarray) -> dict[str, Any]:
        """Detectron2's own result for ``image`` uint8 (H, W, 3) RGB: ``instances``, ``sem_seg``, ``panoptic_seg``."""
        return self.predict([load_image(image)])[0]

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
        categories, scores = [], []
        for segment in info:
            label = segment["category_id"]
            if segment["isthing"]:
                categories.append(self.space.thing_category(label))
                scores.append(segment["score"])
            else:
                categories.append(self.space.stuff_category(label - 1))
                scores.append(float(probabilities[label][panoptic == segment["id"]].mean()))
        ids = panoptic.cpu().numpy().astype(np.int32)
        return make_prediction(image, ids, categories, scores, instances, self.names)


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
        return self._predictor.predict_raw(load_image(original_image)[:, :, ::-1])


class VisualizedOutput:
    """A drawn photo, with the methods of what Detectron2's visualizers return."""

    def __init__(self, picture: np.ndarray) -> None:
        """Hold ``picture``, uint8 (H, W, 3) RGB."""
        self._picture = picture
        self.height, self.width = picture.shape[:2]

    def get_image(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return self._picture

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write it, as `save_picture` does."""
        save_picture(self._picture, filepath)


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

    def run_on_image(self, image: np.ndarray) -> tuple[dict[str, Any], VisualizedOutput]:
        """Segment ``image`` uint8 (H, W, 3) BGR: Detectron2's predictions, and the picture to look at or save."""
        predictions = self.predictor(image)
        prediction = self._predictor.to_prediction(np.ascontiguousarray(image[:, :, ::-1]), predictions)
        return predictions, VisualizedOutput(prediction.draw(grey=self.instance_mode == ColorMode.IMAGE_BW))

    def run_on_video(self, video: cv2.VideoCapture) -> Iterator[np.ndarray]:
        """Segmented frames of ``video``, uint8 (H, W, 3) BGR as OpenCV's."""
        while video.isOpened():
            success, frame = video.read()
            if not success:
                return
            yield self.run_on_image(frame)[1].get_image()[:, :, ::-1]
