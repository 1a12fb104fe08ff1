"""Run-length codes of all segments of a panoptic map at once, and of single masks by what they cover.

Shapes: ``H, W`` image pixels. Codes are COCO's: runs down the columns, first the zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def encode_segments(ids: np.ndarray, wanted: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's compressed run-length code of each segment.

    One pass over the map, whatever the number of segments.

    Args:
        ids: integer (H, W), segment ids.
        wanted: ids to encode; one that no pixel has gives an empty mask.

    Returns:
        ``{"size": [H, W], "counts": bytes}`` for each of ``wanted``.
    """
    height, width = ids.shape
    flat = ids.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.concatenate([starts[1:], [flat.size]])
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    codes = []
    for segment in wanted:
        own = order[np.searchsorted(ordered, segment, "left") : np.searchsorted(ordered, segment, "right")]
        codes.append(_encode(starts[own], ends[own], height, width))
    return codes


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code of one mask, bool (H, W), as ``pycocotools.mask.encode`` gives it, faster."""
    height, width = mask.shape
    row, column = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    top, bottom = np.flatnonzero(mask[0]), np.flatnonzero(mask[-1])
    bounds = np.concatenate([column * height + row + 1, top * height, (bottom + 1) * height])
    bounds.sort()  # start, end, start, end, ...
    double = bounds[1:] == bounds[:-1]  # a run ends with its column, and one starts with the next
    keep = ~(np.append(double, False) | np.append(False, double)) if len(bounds) else np.zeros(0, bool)
    bounds = bounds[keep]
    return _encode(bounds[::2], bounds[1::2], height, width)


def _encode(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """The code of runs [start, end) of ones, positions down the columns."""
    from pycocotools import mask as coco_mask

    bounds = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        del counts[-1]
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def changes(*maps: np.ndarray) -> np.ndarray:
    """Positions int64, row by row and from 0, at which any of the ``maps``, integer (H, W), has another value."""
    different = np.zeros(maps[0].size - 1, bool)
    for each in maps:
        flat = each.ravel()
        different |= flat[1:] != flat[:-1]
    return np.concatenate([[0], np.flatnonzero(different) + 1])


def present_ids(ids: np.ndarray) -> set[int]:
    """The values of a map, integer (H, W), that changes seldom from pixel to pixel."""
    return set(np.unique(ids.ravel()[changes(ids)]).tolist())
