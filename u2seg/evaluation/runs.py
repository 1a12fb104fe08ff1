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
    """COCO's compressed run-length code of one mask, bool (H, W), as ``pycocotools.mask.encode`` gives it.

    The work grows with the mask's bounding box, not with the image.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return _encode(rows, rows, height, width)
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    padded = np.zeros((crop.shape[1], crop.shape[0] + 1), bool)  # a column a row, with a gap that ends its last run
    padded[:, :-1] = crop.T
    flat = padded.ravel()
    bounds = np.flatnonzero(np.diff(flat, prepend=False))  # start, end, start, end, ...
    column, row = np.divmod(bounds, padded.shape[1])
    bounds = (column + left) * height + row + top
    starts, ends = bounds[::2], bounds[1::2]
    apart = starts[1:] != ends[:-1]  # a run that goes on in the next column
    return _encode(np.append(starts[:1], starts[1:][apart]), np.append(ends[:-1][apart], ends[-1:]), height, width)


def _encode(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """The code of runs [start, end) of ones, positions down the columns."""
    from pycocotools import mask as coco_mask

    bounds = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        del counts[-1]
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
