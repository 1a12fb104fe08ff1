"""Outputs of a panoptic model as tables: Detectron2's format, without importing Detectron2.

Shapes: ``H, W`` photo pixels; ``N`` detections of a photo; ``P`` its predicted segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.dataset import LabelledImage
from u2seg.evaluation.detections import ImageDetections
from u2seg.evaluation.joined import VOID
from u2seg.evaluation.overlap import ImageOverlap, OverlapReader, Segments, described_overlap, overlap_table
from u2seg.evaluation.runs import changes, encode_masks
from u2seg.panoptic import read_ids
from u2seg.structures import LabelSpace


@dataclass(frozen=True)
class ComparedImage:
    """One photo's outputs beside its human label."""

    image_id: Any
    overlap: ImageOverlap
    detections: ImageDetections | None
    """None if the model gives none."""
    regions: ImageOverlap | None
    """What the semantic head says, see `u2seg.evaluation.regions`; None if nobody asked or it says nothing."""


@dataclass(frozen=True)
class OutputReader:
    """Compares what a model says of a photo with the human label on disk."""

    gt_things: frozenset[int]
    """``category_id`` of human things."""
    space: LabelSpace
    """The model's classes."""

    with_regions: bool = False
    """Also compare what the semantic head says."""

    def __call__(self, label: LabelledImage, output: Mapping[str, Any]) -> ComparedImage:
        """The overlap with ``label``, and the detections and regions if ``output`` has any.

        Args:
            label: the human label.
            output: ``panoptic_seg`` (ids int (H, W) tensor, 0 void, and segments with contiguous classes: things
                0..K-1, stuff 1..S) and, if the model has them, ``instances`` and ``sem_seg`` (scores (S+1, H, W),
                channel 0 for things).

        Raises:
            DataError: there are no segments, or label and output differ in size; the message names the photo.
        """
        if "panoptic_seg" not in output or output["panoptic_seg"][1] is None:
            raise DataError(f"photo {label.stem!r}: the model gives no panoptic_seg with segments")
        panoptic, listed = output["panoptic_seg"]
        ids = panoptic.cpu().numpy()
        try:
            gt_ids = read_ids(label.png)
            named = [segment["id"] for segment in listed]
            table = overlap_table(gt_ids, ids, [segment["id"] for segment in label.segments], named)
            seen = np.flatnonzero(table[:, 1:].any(axis=0))  # others were painted over
            visible = [listed[index] for index in seen]
            table = table[:, np.append(0, seen + 1)]
            info = [self._info(segment) for segment in visible]
            overlap = described_overlap(table, gt_ids, label.segments, info, self._reader)
            wanted = self.with_regions and output.get("sem_seg") is not None
            regions = self._regions(gt_ids, label, overlap, output["sem_seg"]) if wanted else None
        except DataError as error:
            raise DataError(f"photo {label.stem!r}: {error}") from error
        if "instances" not in output:
            return ComparedImage(label.image_id, overlap, None, regions)
        detection = [segment.get("instance_id", VOID) if segment["isthing"] else VOID for segment in visible]
        return ComparedImage(label.image_id, overlap, self._detections(output["instances"], detection), regions)

    def _regions(self, gt_ids: np.ndarray, label: LabelledImage, overlap: ImageOverlap, scores: Any) -> ImageOverlap:
        """The overlap with the head's map, of which stuff cluster s is segment s and a thing is void."""
        classes = _largest_channel(scores)
        stuff = sorted(set(np.unique(classes.ravel()[changes(classes)]).tolist()) - {0})
        table = overlap_table(gt_ids, classes, [segment["id"] for segment in label.segments], stuff)
        info = [{"category_id": self.space.stuff_category(index - 1)} for index in stuff]
        regions = Segments.from_info(info, frozenset()).with_area(table[:, 1:].sum(axis=0))
        return ImageOverlap(table, overlap.gt, regions)

    @cached_property
    def _reader(self) -> OverlapReader:
        return OverlapReader(self.gt_things, frozenset(range(1, self.space.num_things + 1)))

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
            runs=tuple(encode_masks(masks)),
            segment=np.array(segment, np.int64),
        )


def _largest_channel(scores: Any) -> np.ndarray:
    """int (H, W), the first channel with the largest of ``scores``, a tensor (C, H, W).

    On a CPU this is channel by channel, since torch's argmax along the first axis takes three times as long.
    """
    if scores.device.type != "cpu" or not len(scores) or not scores[0].is_contiguous():
        found: np.ndarray = scores.argmax(dim=0).cpu().numpy()
        return found
    channels = (scores.float() if scores.is_floating_point() else scores).numpy()
    largest, index = channels[0].copy(), np.zeros(channels.shape[1:], np.int16)
    better = np.empty(index.shape, bool)
    for number, channel in enumerate(channels[1:], start=1):
        np.greater(channel, largest, out=better)
        np.copyto(index, number, where=better)
        np.maximum(channel, largest, out=largest)
    return index
