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

    @classmethod
    def from_info(cls, segments: Iterable[Mapping[str, Any]]) -> Segments:
        """Read ``segments_info`` with contiguous category ids."""
        rows = sorted((s["id"], s["category_id"], s["isthing"], s.get("iscrowd", 0)) for s in segments)
        table = np.array(rows, np.int64).reshape(-1, 4)
        return cls(table[:, 0], table[:, 1], table[:, 2] > 0, table[:, 3] > 0)

    @property
    def instances(self) -> np.ndarray:
        """bool (n,): the things that are instances to learn."""
        return self.isthing & ~self.crowd

    def take(self, index: np.ndarray) -> Segments:
        """The segments at ``index``, increasing int (m,) or bool (n,)."""
        return Segments(self.ids[index], self.classes[index], self.isthing[index], self.crowd[index])


@dataclass(frozen=True)
class Targets:
    """What one image teaches."""

    masks: np.ndarray
    """bool (N, H, W), disjoint, none empty"""
    classes: np.ndarray
    """int64 (N,) in [0, K)"""
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
    visible = np.bincount(rows.ravel(), minlength=count + 1)[:count] > 0
    things = np.flatnonzero(visible & segments.instances)
    # narrow rows compare several times faster
    narrow = np.min_scalar_type(count)
    masks: np.ndarray = np.equal(rows.astype(narrow)[None], things.astype(narrow)[:, None, None])
    return Targets(masks, segments.classes[things], meaning[rows])
