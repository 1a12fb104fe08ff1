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
    """The segments 1..n of one image, as columns."""

    classes: np.ndarray
    """int64 (n,): 0..K-1 for things, 1..S for stuff"""
    isthing: np.ndarray
    """bool (n,)"""
    crowd: np.ndarray
    """bool (n,): a thing that is no instance to learn"""

    @property
    def instances(self) -> np.ndarray:
        """bool (n,): the things that are instances to learn."""
        return self.isthing & ~self.crowd


@dataclass(frozen=True)
class LabelledImage:
    """A photo and what it teaches."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    masks: np.ndarray
    """bool (N, H, W), none empty; whole masks may overlap, and lie on stuff"""
    classes: np.ndarray
    """int64 (N,) in [0, K)"""
    sem_seg: np.ndarray
    """uint8 (H, W): 0 for every thing, 1..S for stuff, 255 for nothing"""


def number_segments(segment_ids: np.ndarray, info: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, Segments]:
    """Number the segments of a label from 1.

    Args:
        segment_ids: int32 (H, W), as a panoptic PNG codes them.
        info: ``segments_info`` with contiguous category ids.

    Returns:
        Segment ids of the smallest unsigned type (H, W), 1..n in rising order of the old ones and 0 for any that
        ``info`` does not list; and what the segments are.
    """
    rows = sorted((s["id"], s["category_id"], s["isthing"], s.get("iscrowd", 0)) for s in info)
    table = np.array(rows, np.int64).reshape(-1, 4)
    old, count = table[:, 0], len(rows)
    dtype = np.min_scalar_type(count)
    if count and old[-1] < _TABLE_LIMIT:
        number_of_id = np.zeros(old[-1] + 2, dtype)
        number_of_id[old] = np.arange(1, count + 1)
        numbers = number_of_id[np.minimum(segment_ids, old[-1] + 1)]
    else:
        # large ids, as COCO's: a segment is some hundred runs of pixels, each looked up once
        flat = segment_ids.ravel()
        starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
        place = np.searchsorted(old, flat[starts])
        of_run = np.where(np.append(old, -1)[place] == flat[starts], place + 1, 0).astype(dtype)
        numbers = np.repeat(of_run, np.diff(starts, append=flat.size)).reshape(segment_ids.shape)
    return numbers, Segments(table[:, 1], table[:, 2] > 0, table[:, 3] > 0)


def derive_targets(image: np.ndarray, segment_ids: np.ndarray, segments: Segments) -> LabelledImage:
    """What ``image`` uint8 (H, W, 3) with a panoptic label teaches.

    ``segment_ids`` unsigned (H, W) are numbered 1..n, 0 for nothing.
    """
    visible = np.bincount(segment_ids.ravel(), minlength=len(segments.classes) + 1)[1:] > 0
    things = np.flatnonzero(visible & segments.instances)
    masks: np.ndarray = np.equal(segment_ids, (things + 1).astype(segment_ids.dtype)[:, None, None])
    meaning = np.append(STUFF_VOID, np.where(segments.isthing, 0, segments.classes)).astype(np.uint8)
    return LabelledImage(image, masks, segments.classes[things], meaning[segment_ids])
