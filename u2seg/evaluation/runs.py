"""COCO's run-length codes of many masks in one pass.

A mask is read down its columns; it is told by its *turns*, the positions at which it becomes one or becomes zero. Its
code is the distances between turns; ``pycocotools`` writes them in its letters.

Shapes: ``H, W`` image pixels; ``N`` masks; ``T`` turns of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco


def encode_segments(ids: np.ndarray, segments: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's compressed run-length codes, ``{"size": [H, W], "counts": bytes}``, in one pass over a map.

    Args:
        ids: integer (H, W), segment ids.
        segments: distinct ids to encode; one that no pixel has gives an empty mask.
    """
    height, width = ids.shape
    row, column = np.divmod(np.flatnonzero(ids[1:] != ids[:-1]), width)
    tops = np.append(0, np.flatnonzero(ids[0, 1:] != ids[-1, :-1]) + 1)  # where a column starts a new run
    starts = np.concatenate([column * height + row + 1, tops * height])
    starts.sort(kind="stable")
    column, row = np.divmod(starts, height)
    owner = positions(ids[row, column], segments)
    order = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
    spans = np.stack([starts, np.append(starts[1:], ids.size)], axis=1)[order]  # first pixel, first beyond
    turns = spans + owner[order, None] * ids.size
    return _encode(turns[spans < ids.size], len(segments), height, width)


def positions(values: np.ndarray, listed: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64, for each of ``values``, integers, its place in ``listed``, distinct integers; -1 if it is not there."""
    known = np.append(np.iinfo(np.int64).min, listed)  # so that there is one to compare with
    order = np.argsort(known)
    place = order[np.searchsorted(known, values.astype(np.int64), "right", order) - 1]
    return np.where(known[place] == values, place, 0) - 1


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """COCO's compressed run-length codes of masks bool (N, H, W), as ``pycocotools.mask.encode`` gives them, faster."""
    count, height, width = masks.shape
    if not masks.size:
        return _encode(np.zeros(0, np.int64), count, height, width)
    bits = np.packbits(masks, axis=-1)  # (N, H, B), eight pixels a byte
    words = np.zeros(-(-bits.size // 8), np.uint64)
    turned = words.view(np.uint8)[: bits.size].reshape(bits.shape)
    np.bitwise_xor(bits[:, 1:], bits[:, :-1], out=turned[:, 1:])
    before = np.zeros((count, width), bool)  # the pixel read before the top of a column
    before[:, 1:] = masks[:, -1, :-1]
    turned[:, 0] = np.packbits(masks[:, 0] != before, axis=-1)
    nonzero = np.flatnonzero(words != 0)
    single = np.flatnonzero(np.unpackbits(words[nonzero].view(np.uint8)).view(bool))
    line, column = np.divmod(nonzero[single >> 6] * 64 + (single & 63), bits.shape[2] * 8)
    owner, row = np.divmod(line, height)
    turns = (owner * width + column) * height + row
    turns.sort(kind="stable")  # much of it is in order
    return _encode(turns, count, height, width)


def _encode(turns: np.ndarray, count: int, height: int, width: int) -> list[dict[str, Any]]:
    """Codes of N masks from their turns int64 (T,), rising: mask * H * W + position."""
    if not count:
        return []
    walls = np.arange(1, count + 1) * (height * width)  # where each mask ends
    cuts = np.searchsorted(turns, walls)
    lengths = np.diff(np.insert(turns, cuts, walls), prepend=0).astype(np.uint32)
    of_masks = np.split(lengths, cuts[:-1] + np.arange(1, count))
    codes: list[dict[str, Any]] = coco.frPyObjects(
        [{"size": [height, width], "counts": counts} for counts in of_masks], height, width
    )
    return codes
