"""From a panoptic label to what the heads learn.

Shapes: ``H, W`` image pixels; ``N`` things that are visible; ``K`` thing classes; ``S`` stuff classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.panoptic.run_lengths import look_up
from u2seg.structures import STUFF_VOID


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


def derive_targets(image: np.ndarray, segment_ids: np.ndarray, info: Iterable[Mapping[str, Any]]) -> LabelledImage:
    """What a photo teaches, by its panoptic label.

    Args:
        image: uint8 (H, W, 3).
        segment_ids: int32 (H, W), as a panoptic PNG codes them; one that ``info`` does not list is nothing.
        info: ``segments_info`` with contiguous category ids. Crowds are no instances to learn.
    """
    rows = sorted((s["id"], s["category_id"], s["isthing"], s.get("iscrowd", 0)) for s in info)
    listed, classes, isthing, crowd = np.array(rows, np.int64).reshape(-1, 4).T
    numbers = look_up(segment_ids, listed, np.arange(len(rows) + 1, dtype=np.min_scalar_type(len(rows))))
    visible = np.bincount(numbers.ravel(), minlength=len(rows) + 1)[1:] > 0
    things = np.flatnonzero(visible & (isthing > 0) & (crowd == 0))
    masks: np.ndarray = np.equal(numbers, (things + 1).astype(numbers.dtype)[:, None, None])
    meaning = np.append(STUFF_VOID, np.where(isthing, 0, classes)).astype(np.uint8)
    return LabelledImage(image, masks, classes[things], meaning[numbers])
