"""Outputs of a panoptic model as tables: Detectron2's format, without importing Detectron2.

Shapes: ``H, W`` photo pixels; ``N`` detections of a photo; ``P`` its predicted segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.dataset import LabelledImage
from u2seg.evaluation.detections import ImageDetections
from u2seg.evaluation.joined import VOID
from u2seg.evaluation.overlap import ImageOverlap, OverlapReader, image_overlap, read_ids
from u2seg.evaluation.runs import encode_mask, present_ids
from u2seg.structures import LabelSpace


@dataclass(frozen=True)
class OutputReader:
    """Compares what a model says of a photo with the human label on disk."""

    gt_things: frozenset[int]
    """``category_id`` of human things."""
    space: LabelSpace
    """The model's classes."""

    def __call__(self, label: LabelledImage, output: Mapping[str, Any]) -> tuple[ImageOverlap, ImageDetections | None]:
        """The overlap with ``label``, and the detections if ``output`` has any.

        Args:
            label: the human label.
            output: ``panoptic_seg`` (ids int (H, W) tensor, 0 void, and segments with contiguous classes: things
                0..K-1, stuff 1..S) and, if the model has them, ``instances``.

        Raises:
            DataError: there are no segments, or label and output differ in size; the message names the photo.
        """
        if "panoptic_seg" not in output or output["panoptic_seg"][1] is None:
            raise DataError(f"photo {label.stem!r}: the model gives no panoptic_seg with segments")
        panoptic, listed = output["panoptic_seg"]
        ids = panoptic.cpu().numpy()
        present = present_ids(ids)
        visible = [segment for segment in listed if segment["id"] in present]
        info = [self._info(segment) for segment in visible]
        reader = OverlapReader(self.gt_things, frozenset(range(1, self.space.num_things + 1)))
        try:
            overlap = image_overlap(read_ids(label.png), ids, label.segments, info, reader)
        except DataError as error:
            raise DataError(f"photo {label.stem!r}: {error}") from error
        if "instances" not in output:
            return overlap, None
        detection = [segment.get("instance_id", VOID) if segment["isthing"] else VOID for segment in visible]
        return overlap, self._detections(output["instances"], detection)

    def _info(self, segment: Mapping[str, Any]) -> dict[str, Any]:
        index = int(segment["category_id"])
        category = self.space.thing_category(index) if segment["isthing"] else self.space.stuff_category(index - 1)
        return {"id": segment["id"], "category_id": category, "score": float(segment.get("score", 1.0))}

    def _detections(self, instances: Any, segment: Sequence[int]) -> ImageDetections:
        """Columns of Detectron2's ``Instances``; ``segment`` as in `ImageDetections`."""
        masks = instances.pred_masks.cpu().numpy().astype(bool, copy=False)  # (N, H, W)
        boxes = instances.pred_boxes.tensor.cpu().numpy().astype(float)  # left, top, right, bottom
        boxes[:, 2:] -= boxes[:, :2]
        return ImageDetections(
            category=instances.pred_classes.cpu().numpy().astype(np.int64) + self.space.thing_category(0),
            box=boxes,
            score=instances.scores.cpu().numpy().astype(float),
            runs=tuple(encode_mask(mask) for mask in masks),
            segment=np.array(segment, np.int64),
        )
