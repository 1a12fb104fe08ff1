"""What a model says about one photo, as plain arrays.

Shapes: ``H, W`` photo pixels; ``n`` segments, which share no pixel; ``N`` instances, which may overlap.
Category ids: things 1..K, stuff K+1..K+S.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from u2seg.engine.names import ClassNames
from u2seg.engine.visualization import draw_segments, save_picture
from u2seg.structures import Segment


@dataclass(frozen=True)
class PredictedSegment(Segment):
    """One region of the panoptic map.

    ``score`` in [0, 1] is the detector's for things; for stuff the mean probability of the class over the region.
    """

    name: str = ""


@dataclass(frozen=True, eq=False)
class Instances:
    """Detected things, best first; those that the panoptic map has no place for are here too."""

    masks: np.ndarray
    """bool (N, H, W)"""
    boxes: np.ndarray
    """float32 (N, 4): left, top, right, bottom, in pixels"""
    scores: np.ndarray
    """float32 (N,) in [0, 1]"""
    category_ids: np.ndarray
    """int64 (N,), 1..K"""
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """One photo, segmented. A notebook shows it as a picture."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB"""
    panoptic: np.ndarray
    """int32 (H, W): segment id of each pixel, 0 where there is none"""
    segments: tuple[PredictedSegment, ...]
    instances: Instances
    names: ClassNames = field(repr=False)

    def draw(self, text: bool = True, grey: bool = False) -> np.ndarray:
        """The photo with its segments over it, uint8 (H, W, 3) RGB, as `draw_segments` has it."""
        return draw_segments(self.image, self.panoptic, self.segments, self.names, text, grey)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what `draw` gives; the file's ending says in which format, ``.png`` if it has none.

        Raises:
            UsageError: the format is unknown, or the file can't be written.
        """
        return save_picture(self.draw(), path)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.draw()).save(file, format="PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        height, width = self.panoptic.shape
        names = [segment.name for segment in self.segments]
        return f"Prediction({width} x {height} pixels; segments: {', '.join(names) or 'none'})"


def make_prediction(
    image: np.ndarray,
    panoptic: np.ndarray,
    categories: Sequence[int],
    scores: Sequence[float],
    instances: Instances,
    names: ClassNames,
) -> Prediction:
    """Measure the segments of a panoptic map.

    Args:
        image: uint8 (H, W, 3) RGB.
        panoptic: int32 (H, W) with ids 1..n, 0 for none; ids that no pixel has are left out of the result.
        categories: category id of segment i + 1, for each of the n.
        scores: in [0, 1], one for each of the n.
        instances: the detections.
        names: of the categories.
    """
    areas = np.bincount(panoptic.ravel(), minlength=len(categories) + 1).tolist()
    boxes = ndimage.find_objects(panoptic, max_label=len(categories))
    segments = []
    for index, (category, score, box) in enumerate(zip(categories, scores, boxes, strict=True), start=1):
        if box is None:
            continue
        rows, columns = box
        bbox = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        isthing = names.space.is_thing(category)
        segments.append(PredictedSegment(index, category, isthing, areas[index], bbox, score, names[category]))
    return Prediction(image, panoptic, tuple(segments), instances, names)
