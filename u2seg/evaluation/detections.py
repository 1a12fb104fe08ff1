"""A model's detections beside its panoptic segments: they may overlap, have scores, and are what AP is made of.

Shapes: ``N`` detections and ``P`` predicted segments of the set; ``G`` true segments; ``I`` images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.evaluation.detection import DetectionSet, detection_scores
from u2seg.evaluation.joined import VOID, OverlapSet

NAMES = ("AP", "AP50", "AR@100")
"""Of `u2seg.evaluation.detection.BRIEF`, those that are given for each policy."""


@dataclass(frozen=True)
class ImageDetections:
    """The detections of one image; n of them."""

    category: np.ndarray
    """int64 (n,), ``category_id``"""
    box: np.ndarray
    """float64 (n, 4): x, y, width, height in pixels."""
    score: np.ndarray
    """float64 (n,)"""
    runs: tuple[dict[str, Any], ...]
    """Run-length codes."""
    segment: np.ndarray
    """int64, for each predicted segment of the image the detection that it was made of, -1 for stuff."""


@dataclass(frozen=True)
class Detections:
    """The detections of a set, as columns."""

    image: np.ndarray
    """int64 (N,), rising."""
    category: np.ndarray
    """int64 (N,), ``category_id``"""
    box: np.ndarray
    """float64 (N, 4): x, y, width, height in pixels."""
    score: np.ndarray
    """float64 (N,)"""
    runs: tuple[dict[str, Any], ...]
    segment: np.ndarray
    """int64 (P,), the detection that a predicted segment was made of, -1 for stuff."""
    gt_runs: tuple[dict[str, Any] | None, ...]
    """(G,) run-length codes of human things, None for stuff."""
    sizes: tuple[tuple[int, int], ...]
    """(I,) height and width in pixels."""

    def __len__(self) -> int:
        return len(self.category)

    @classmethod
    def join(
        cls,
        images: Sequence[ImageDetections],
        gt_runs: Sequence[dict[str, Any] | None],
        sizes: Sequence[tuple[int, int]],
    ) -> Detections:
        """Put the images' detections side by side."""
        counts = [len(image.category) for image in images]
        starts = np.cumsum([0, *counts])
        segments = [
            np.where(image.segment == VOID, VOID, image.segment + start)
            for image, start in zip(images, starts.tolist(), strict=False)
        ]
        whole = np.zeros(0, np.int64)
        return cls(
            image=np.repeat(np.arange(len(images)), counts),
            category=np.concatenate([whole, *(image.category for image in images)]),
            box=np.concatenate([np.zeros((0, 4)), *(image.box for image in images)]),
            score=np.concatenate([np.zeros(0), *(image.score for image in images)]),
            runs=tuple(code for image in images for code in image.runs),
            segment=np.concatenate([whole, *segments]),
            gt_runs=tuple(gt_runs),
            sizes=tuple(sizes),
        )


def labelled_objects(
    overlaps: OverlapSet, detections: Detections, gt_label: np.ndarray, label: np.ndarray
) -> DetectionSet:
    """Human things and detections in COCO's terms.

    Args:
        overlaps: the human side.
        detections: the model's side.
        gt_label: int64 (G,), not negative.
        label: int64 (N,), -1 for detections to leave out.
    """
    gt = overlaps.gt
    columns = (overlaps.gt_image, gt_label + 1, gt.area, gt.box, gt.crowd.astype(np.int64))
    truth = [
        {
            "image_id": image,
            "category_id": own,
            "segmentation": code,
            "area": area,
            "bbox": box,
            "iscrowd": crowd,
        }
        for code, image, own, area, box, crowd in zip(
            detections.gt_runs, *(column.tolist() for column in columns), strict=True
        )
        if code is not None
    ]
    given = (detections.image, label, detections.box, detections.score)
    found = [
        {"image_id": image, "category_id": own + 1, "segmentation": code, "bbox": box, "score": score}
        for code, image, own, box, score in zip(detections.runs, *(column.tolist() for column in given), strict=True)
        if own != VOID
    ]
    sizes = [{"id": index, "height": height, "width": width} for index, (height, width) in enumerate(detections.sizes)]
    return DetectionSet(sizes, truth, found)


def matched_scores(objects: DetectionSet, backend: str | None = None) -> dict[str, float]:
    """``AP_mask``, ``AP50_mask``, ... ``AR@100_box`` in percent, averaged over classes that have an object.

    A detection of a class that no image has can't be a hit and is in no average, as with COCO's own scores.
    """
    scores = {}
    for suffix, kind in (("mask", "segm"), ("box", "bbox")):
        found = detection_scores(objects, kind, backend, brief=True)
        scores.update({f"{name}_{suffix}": found[name] for name in NAMES})
    return scores
