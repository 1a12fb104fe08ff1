"""From a panoptic label to what the heads learn.

Shapes: ``H, W`` image pixels; ``n`` segments listed; ``N`` things that are visible; ``K`` thing classes; ``S`` stuff
classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.structures import STUFF_VOID

_TABLE_LIMIT = 1 << 16


@dataclass(frozen=True)
class Segments:
    """The segments of one image, as columns; sorted by id."""

    ids: np.ndarray
    """int64 (n,), positive, each once"""
    classes: np.ndarray
    """int64 (n,): 0..K-1 for things, 1..S for stuff"""
    isthing: np.ndarray
    """bool (n,)"""
    crowd: np.ndarray
    """bool (n,): a thing that is no instance to learn"""
    scores: np.ndarray
    """float32 (n,) in [0, 1]"""

    @classmethod
    def from_info(cls, segments: Iterable[Mapping[str, Any]]) -> Segments:
        """Read ``segments_info`` with contiguous category ids."""
        ordered = sorted(segments, key=lambda segment: segment["id"])
        return cls(
            np.array([segment["id"] for segment in ordered], np.int64),
            np.array([segment["category_id"] for segment in ordered], np.int64),
            np.array([segment["isthing"] for segment in ordered], bool),
            np.array([segment.get("iscrowd", 0) for segment in ordered], bool),
            np.array([segment.get("score", 1.0) for segment in ordered], np.float32),
        )

    def take(self, index: np.ndarray) -> Segments:
        """The segments at ``index``, increasing int (m,) or bool (n,)."""
        return Segments(*(column[index] for column in self._columns()))

    def join(self, other: Segments) -> Segments:
        """These segments and then ``other``, whose ids are all larger."""
        return Segments(*(np.concatenate(pair) for pair in zip(self._columns(), other._columns(), strict=True)))

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.ids, self.classes, self.isthing, self.crowd, self.scores


@dataclass(frozen=True)
class Targets:
    """What one image teaches."""

    masks: np.ndarray
    """bool (N, H, W), disjoint, none empty"""
    boxes: np.ndarray
    """float32 (N, 4): x0, y0, x1, y1 in pixels, tight, the far edge exclusive"""
    classes: np.ndarray
    """int64 (N,) in [0, K)"""
    scores: np.ndarray
    """float32 (N,)"""
    sem_seg: np.ndarray
    """uint8 (H, W): 0 for every thing, 1..S for stuff, 255 for nothing"""


def segment_rows(segment_ids: np.ndarray, segments: Segments) -> np.ndarray:
    """Row of ``segments`` of each pixel of ``segment_ids`` int32 (H, W), int64 (H, W), n where it is none of them."""
    ids, count = segments.ids, len(segments.ids)
    if count == 0:
        return np.zeros(segment_ids.shape, np.int64)
    if ids[-1] < _TABLE_LIMIT:
        table = np.full(ids[-1] + 2, count)
        table[ids] = np.arange(count)
        return table[np.minimum(segment_ids, ids[-1] + 1)]
    rows = np.minimum(np.searchsorted(ids, segment_ids), count - 1)
    return np.where(ids[rows] == segment_ids, rows, count)


def derive_targets(segment_ids: np.ndarray, segments: Segments) -> Targets:
    """Instances and ``sem_seg`` of the panoptic label ``segment_ids`` int32 (H, W), 0 or an unlisted id for nothing."""
    count = len(segments.ids)
    rows = segment_rows(segment_ids, segments)
    meaning = np.append(np.where(segments.isthing, 0, segments.classes), STUFF_VOID).astype(np.uint8)
    visible: np.ndarray = np.bincount(rows.ravel(), minlength=count + 1)[:count] > 0
    wanted = np.flatnonzero(visible & segments.isthing & ~segments.crowd)
    # narrow rows compare several times faster
    narrow = np.min_scalar_type(count)
    masks: np.ndarray = np.equal(rows.astype(narrow)[None], wanted.astype(narrow)[:, None, None])
    return Targets(masks, tight_boxes(masks), segments.classes[wanted], segments.scores[wanted], meaning[rows])


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes float32 (N, 4), x0, y0, x1, y1 with the far edge exclusive, of ``masks`` bool (N, H, W), none empty."""
    columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)
    height, width = masks.shape[1:]
    left, right = columns.argmax(axis=1), width - np.flip(columns, 1).argmax(axis=1)
    top, bottom = rows.argmax(axis=1), height - np.flip(rows, 1).argmax(axis=1)
    return np.stack([left, top, right, bottom], axis=1).astype(np.float32)
