"""Run-length codes of all segments of a panoptic map at once.

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
    from pycocotools import mask as coco_mask

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
        bounds = np.stack([starts[own], ends[own]], axis=1).ravel()  # start, end, start, end, ...
        counts = np.diff(bounds, prepend=0, append=flat.size).tolist()
        if len(counts) > 1 and counts[-1] == 0:
            del counts[-1]
        codes.append(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    return codes
