"""A trained model as one TorchScript file that segments without Detectron2, config or this package.

The network is traced; how masks and stuff become one panoptic map is scripted, since that depends on their values.
What stays outside is reading and resizing the photo.

`PanopticMerge` does what Detectron2's `detector_postprocess`, `sem_seg_postprocess` and
`combine_semantic_and_instance_outputs` do in Python, and tests hold it to their results. Method: Panoptic FPN (CVPR
2019), section 4, after Panoptic Segmentation (CVPR 2019), section 5.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels the network sees; ``C`` semantic classes (1 + S, 0 is "a thing");
``R`` detections, ``N`` of them with a box that is not empty; ``M`` side of their mask grids; ``n`` segments.
"""

# TorchScript reads annotations as they are written, so no `from __future__ import annotations` here.

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.export import TracingAdapter
from detectron2.layers.mask_ops import paste_masks_in_image
from torch import nn
from torch.nn import functional as F  # noqa: N812

from u2seg.engine.names import ClassNames
from u2seg.engine.predictor import Predictor
from u2seg.engine.results import Instances, Prediction, make_prediction
from u2seg.engine.trained import ImageLike, load_image, to_network
from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, replacing
from u2seg.structures import LabelSpace

FORMAT = "u2seg export 1"
RECORD = "u2seg.json"
"""Name of the JSON inside the file: sizes, channel order, class counts and names."""


class PanopticMerge(nn.Module):
    """A traced network with the merge behind it."""

    num_things: int
    overlap: float
    stuff_area: float
    min_score: float

    def __init__(
        self, network: nn.Module, *, num_things: int, overlap: float, stuff_area: float, min_score: float
    ) -> None:
        """Put the merge behind ``network``, which is `raw_outputs`, traced.

        A thing of which better ones cover more than the share ``overlap``, a thing of a score below ``min_score``, and
        stuff of fewer pixels than ``stuff_area`` are left out of the map.
        """
        super().__init__()
        self.network = network
        self.num_things, self.overlap, self.stuff_area, self.min_score = num_things, overlap, stuff_area, min_score

    def forward(
        self, image: torch.Tensor, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Segment ``image`` float32 (3, h, w), 0..255, for a photo of ``height`` x ``width`` pixels.

        Returns:
            Panoptic map int32 (H, W) of segment ids 1..n, 0 for none; category ids int64 (n,): things 1..K, stuff from
            K+1; their scores float32 (n,); then the instances: boxes float32 (N, 4) left, top, right, bottom in
            pixels; category ids int64 (N,); scores float32 (N,); masks bool (N, H, W).
        """
        boxes, scores, classes, grids, logits = self.network(image)
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]], dtype=boxes.dtype, device=boxes.device)
        size = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum((boxes * scale.repeat(2)).clamp(min=0), size.repeat(2))
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        masks = paste_masks_in_image(grids[kept], boxes, (height, width)).to(torch.bool)
        logits = logits[:, : image.shape[1], : image.shape[2]].unsqueeze(0)
        logits = F.interpolate(logits, size=[height, width], mode="bilinear", align_corners=False)[0]
        panoptic, categories, segment_scores = self.merge(scores, classes, masks, logits)
        return panoptic, categories, segment_scores, boxes, classes + 1, scores, masks

    def merge(
        self, scores: torch.Tensor, classes: torch.Tensor, masks: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lay things over each other, best first, then stuff where no thing is.

        Args:
            scores: float32 (N,).
            classes: int64 (N,) in [0, K).
            masks: bool (N, H, W).
            logits: float32 (C, H, W).

        Returns:
            The first three of `forward`.
        """
        panoptic = torch.zeros(logits.shape[1], logits.shape[2], dtype=torch.int32, device=logits.device)
        categories: list[int] = []
        segment_scores: list[float] = []
        for index in torch.argsort(-scores):
            if float(scores[index]) < self.min_score:
                break
            mask = masks[index]
            free = mask & (panoptic == 0)
            area = int(mask.sum())
            if area == 0 or (area - int(free.sum())) / area > self.overlap:
                continue
            categories.append(int(classes[index]) + 1)
            segment_scores.append(float(scores[index]))
            panoptic[free] = len(categories)
        semantic = logits.argmax(dim=0)
        probabilities = logits.softmax(dim=0)
        for label in range(1, logits.shape[0]):
            region = (semantic == label) & (panoptic == 0)
            area = int(region.sum())
            if area == 0 or area < self.stuff_area:
                continue
            categories.append(self.num_things + label)
            segment_scores.append(float(probabilities[label][region].mean()))
            panoptic[region] = len(categories)
        return (
            panoptic,
            torch.tensor(categories, dtype=torch.int64, device=logits.device),
            torch.tensor(segment_scores, dtype=torch.float32, device=logits.device),
        )


def raw_outputs(model: Any, inputs: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """What the `PanopticFPN` ``model`` says of one ``image`` float32 (3, h, w) before it is scaled to the photo.

    Returns:
        Boxes float32 (R, 4) in pixels of ``image``; scores float32 (R,); classes int64 (R,) in [0, K); mask
        probabilities float32 (R, M, M); logits float32 (C, at least h, at least w).
    """
    (detections,), (logits,) = model.inference(inputs, do_postprocess=False)
    masks = detections.pred_masks[:, 0]
    return detections.pred_boxes.tensor, detections.scores, detections.pred_classes, masks, logits


def export_model(predictor: Predictor, path: str | os.PathLike[str], example: ImageLike | None = None) -> Path:
    """Write the model of ``predictor`` as a TorchScript file of `PanopticMerge`, on the device that it is on.

    Args:
        predictor: the model.
        path: the file.
        example: photo to trace with; noise if None. The result does not depend on it as long as it has a detection.

    Raises:
        UsageError: the file can't be written.
        DataError: nothing is detected in ``example``, so that a part of the network would not be traced.
    """
    cfg = predictor.cfg
    if example is None:
        example = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    record = {
        "format": FORMAT,
        "weights": cfg.MODEL.WEIGHTS,
        "image_format": cfg.INPUT.FORMAT,
        "shortest": cfg.INPUT.MIN_SIZE_TEST,
        "longest": cfg.INPUT.MAX_SIZE_TEST,
        "num_things": predictor.space.num_things,
        "num_stuff": predictor.space.num_stuff,
        "names": {str(index): name for index, name in predictor.names.known.items()},
    }
    image = to_network(load_image(example), cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    path = Path(path).expanduser()
    with warnings.catch_warnings():
        # Tracing warns of every Python number, which tests of other sizes show not to matter; and TorchScript is
        # deprecated, see docs/predict.md.
        warnings.simplefilter("ignore")
        script = _script(predictor, image.to(cfg.MODEL.DEVICE))
        with in_words(path), replacing(path) as part:
            torch.jit.save(script, str(part), _extra_files={RECORD: json.dumps(record)})
    return path


def _script(predictor: Predictor, image: torch.Tensor) -> torch.jit.ScriptModule:
    """Trace the network with ``image`` float32 (3, h, w) and put the merge behind it."""
    model: Any = predictor.model
    network = TracingAdapter(model, [{"image": image}], raw_outputs)
    with torch.no_grad():
        if not len(network(image)[0]):
            raise DataError(
                "nothing is detected in the photo to trace with, so that the mask head would be left out; give another "
                "one (--example), or lower MODEL.ROI_HEADS.SCORE_THRESH_TEST"
            )
        merge = PanopticMerge(
            torch.jit.trace(network, (image,), check_trace=False),
            num_things=predictor.space.num_things,
            overlap=float(model.combine_overlap_thresh),
            stuff_area=float(model.combine_stuff_area_thresh),
            min_score=float(model.combine_instances_score_thresh),
        )
        return torch.jit.script(merge.eval())


class ExportedPredictor:
    """An exported file, called as `Predictor` is, with the same kind of result."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        """Load a file of `export_model`, which runs on the kind of device that it was exported on.

        Raises:
            UsageError: there is no such file.
            DataError: it is not one of `export_model`.
        """
        import torchvision  # noqa: F401  the operators nms and roi_align

        if not Path(path).is_file():
            raise UsageError(f"there is no exported model {os.fspath(path)!r}")
        extra = {RECORD: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                self.script = torch.jit.load(str(path), map_location=device, _extra_files=extra).eval()
            self._record = record = json.loads(extra[RECORD])
            if record["format"] != FORMAT:
                raise ValueError(f"its format is {record['format']!r}, not {FORMAT!r}")
            self.space, self.device = LabelSpace(record["num_things"], record["num_stuff"]), device
            self.names = ClassNames(self.space, {int(index): name for index, name in record["names"].items()})
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise DataError(f"{os.fspath(path)} is no model of tools/export_model.py: {reason}") from error

    def __call__(self, image: ImageLike) -> Prediction:
        """Segment one photo.

        Raises:
            DataError: it can't be read, or is no image.
        """
        pixels, record = load_image(image), self._record
        resized = to_network(pixels, record["image_format"], record["shortest"], record["longest"])
        with torch.no_grad():
            results: Any = self.script(resized.to(self.device), *pixels.shape[:2])
        panoptic, categories, scores, boxes, things, thing_scores, masks = (part.cpu().numpy() for part in results)
        names = tuple(self.names[index] for index in things.tolist())
        instances = Instances(masks, boxes, thing_scores, things, names)
        return make_prediction(pixels, panoptic, categories.tolist(), scores.tolist(), instances, self.names)
