"""A trained model as one TorchScript file that segments without Detectron2, config or this package.

The network is traced; how masks and stuff become one panoptic map is scripted, since that depends on their values.
What stays outside is reading and resizing the photo.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels the network sees; ``C`` semantic classes (1 + S, 0 is "a thing");
``R`` detections; ``M`` side of their mask grids.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from u2seg.engine.merging import PanopticMerge
from u2seg.engine.names import ClassNames
from u2seg.engine.predictor import ImageLike, Predictor, load_image, to_network
from u2seg.engine.results import Instances, Prediction, make_prediction
from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, replacing
from u2seg.structures import LabelSpace

FORMAT = "u2seg export 1"
RECORD = "u2seg.json"
"""Name of the JSON inside the file: sizes, channel order, class counts and names."""


class Network(nn.Module):
    """What is traced: from pixels to raw detections and semantic logits."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        """Wrap a `PanopticFPN` in evaluation mode."""
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Segment ``image`` float32 (3, h, w), 0..255.

        Returns:
            Boxes float32 (R, 4) in pixels of ``image``; scores float32 (R,); classes int64 (R,) in [0, K); mask
            probabilities float32 (R, M, M); logits float32 (C, at least h, at least w).
        """
        (detections,), (logits,) = self.model.inference([{"image": image}], do_postprocess=False)
        masks = detections.pred_masks[:, 0]
        return detections.pred_boxes.tensor, detections.scores, detections.pred_classes, masks, logits


def export_model(predictor: Predictor, path: str | os.PathLike[str], example: ImageLike | None = None) -> Path:
    """Write the model of ``predictor`` as TorchScript, on the device that it is on.

    The file's ``forward(image float32 (3, h, w), height, width)`` returns what `PanopticMerge.forward` says.

    Args:
        predictor: the model.
        path: the file, written whole or not at all.
        example: photo to trace with; noise if None. The result does not depend on it as long as it has a detection.

    Raises:
        UsageError: the file can't be written.
        DataError: nothing is detected in ``example``, so that a part of the network would not be traced.
    """
    cfg = predictor.cfg
    if example is None:
        example = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    script = _script(predictor, to_network(load_image(example), cfg.INPUT.FORMAT, *sizes).to(cfg.MODEL.DEVICE))
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
    path = Path(path).expanduser()
    with in_words(path), replacing(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, see docs/predict.md
        torch.jit.save(script, str(part), _extra_files={RECORD: json.dumps(record)})
    return path


def _script(predictor: Predictor, image: torch.Tensor) -> torch.jit.ScriptModule:
    """Trace the network with ``image`` float32 (3, h, w) and put the merge behind it."""
    from detectron2.export import TracingAdapter

    model: Any = predictor.model
    network = Network(model).eval()
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of every Python number; that they do not matter is what the tests of this module show.
        warnings.simplefilter("ignore")
        if not len(network(image)[0]):
            raise DataError(
                "nothing is detected in the photo to trace with, so that the mask head would be left out; give another "
                "one (--example), or lower MODEL.ROI_HEADS.SCORE_THRESH_TEST"
            )
        traced = torch.jit.trace(TracingAdapter(network, image), (image,), check_trace=False)
        merge = PanopticMerge(
            traced,
            num_things=predictor.space.num_things,
            overlap=float(model.combine_overlap_thresh),
            stuff_area=float(model.combine_stuff_area_thresh),
            min_score=float(model.combine_instances_score_thresh),
        )
        return torch.jit.script(merge.eval())


class ExportedPredictor:
    """An exported file, called as `Predictor` is, with the same kind of result."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        """Load a file of `export_model`.

        Args:
            path: the file.
            device: where to run it: the one that it was exported on.

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
        shown = to_network(pixels, record["image_format"], record["shortest"], record["longest"])
        with torch.no_grad():
            results: Any = self.script(shown.to(self.device), *pixels.shape[:2])
        panoptic, categories, scores, boxes, things, thing_scores, masks = (part.cpu().numpy() for part in results)
        names = tuple(self.names[index] for index in things.tolist())
        instances = Instances(masks, boxes, thing_scores, things, names)
        return make_prediction(pixels, panoptic, categories.tolist(), scores.tolist(), instances, self.names)
