"""The overlaps of a whole set as flat columns, so that every later step is a few numpy calls.

Shapes: ``G`` ground-truth and ``P`` predicted segments of the whole set; ``M`` pairs that share a pixel. Memory is some
100 bytes for each segment and each pair, whatever the size of the photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from u2seg.evaluation.overlap import ImageOverlap, Segments

VOID = -1
"""Index of a segment, or a class, that is none."""


@dataclass(frozen=True)
class OverlapSet:
    """Segments and shared pixels of a whole set."""

    num_images: int
    gt: Segments
    pred: Segments
    gt_image: np.ndarray
    """int64 (G,), rising: the image that a true segment is in."""
    pred_image: np.ndarray
    """int64 (P,), rising."""
    pair_gt: np.ndarray
    """int64 (M,) index of the true segment, `VOID` outside all; pairs run by image, then true, then predicted."""
    pair_pred: np.ndarray
    """int64 (M,) index of the predicted segment, `VOID` outside all."""
    pixels: np.ndarray
    """int64 (M,), all above 0."""

    @classmethod
    def join(cls, images: Sequence[ImageOverlap]) -> OverlapSet:
        """Put the images' tables side by side."""
        rows, columns, pixels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        gt_count = pred_count = 0
        for image in images:
            row, column = np.nonzero(image.table)
            rows.append(np.where(row > 0, row - 1 + gt_count, VOID))
            columns.append(np.where(column > 0, column - 1 + pred_count, VOID))
            pixels.append(image.table[row, column])
            gt_count += len(image.gt)
            pred_count += len(image.pred)
        index = np.arange(len(images))
        return cls(
            num_images=len(images),
            gt=Segments.join([image.gt for image in images]),
            pred=Segments.join([image.pred for image in images]),
            gt_image=np.repeat(index, [len(image.gt) for image in images]),
            pred_image=np.repeat(index, [len(image.pred) for image in images]),
            pair_gt=np.concatenate(rows),
            pair_pred=np.concatenate(columns),
            pixels=np.concatenate(pixels),
        )

    def with_clusters(self, category: np.ndarray) -> OverlapSet:
        """The same segments with other predicted category ids, int64 (P,)."""
        return replace(self, pred=self.pred.with_category(category))
