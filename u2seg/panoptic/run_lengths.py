"""COCO's run-length codes, compressed or not: read without trust, and written for many masks in one pass.

A mask is read down its columns; it is told by its *turns*, the positions at which it becomes one or becomes zero. Its
code is the distances between turns; ``pycocotools`` writes them in its letters.

Shapes: ``H, W`` image pixels; ``N`` codes; ``n`` runs of a code, zeros first; ``T`` turns of all masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from u2seg.errors import DataError


def decode_mask(segmentation: Mapping[str, Any]) -> np.ndarray:
    """Mask bool (H, W) of a run-length code, compressed or not.

    Raises:
        DataError: it is no run-length code.
    """
    return decode_runs(count_runs(segmentation), *segmentation["size"])


def count_runs(segmentation: Any) -> np.ndarray:
    """Lengths int64 (n,) of the runs of a run-length code, compressed or not.

    pycocotools reads beyond its memory where they do not sum to the size of the mask.

    Raises:
        DataError: it is no run-length code.
    """
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        remedy = "pycocotools' COCO.annToRLE makes codes of them"
        polygons = f"; polygons are not read: {remedy}" if isinstance(segmentation, list) else ""
        raise DataError(f"has no run-length code for its mask{polygons}")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(type(side) is int for side in size):
        raise DataError(f"has a run-length code of the size {str(size)[:60]!r}, not [height, width]")
    try:
        runs = np.array(counts, np.int64).reshape(-1) if isinstance(counts, list) else _decompress(counts)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise DataError(f"has a damaged run-length code: {type(error).__name__} {error}") from error
    if runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
        raise DataError(f"has a run-length code of {runs.sum()} pixels for a mask of {size[0]} x {size[1]}")
    return runs


def mask_areas(codes: Sequence[Any]) -> list[int | None]:
    """Pixels of each of N masks, from their codes in one pass.

    None for what is no compressed code, and for all where one is damaged: ask `count_runs` about those.
    """
    areas: list[int | None] = [None] * len(codes)
    places = [place for place, code in enumerate(codes) if _is_compressed(code)]
    texts = [codes[place]["counts"] for place in places]
    try:
        numbers, last = _numbers("".join(texts).encode("ascii"))
    except ValueError:
        return areas
    ends = np.cumsum([len(text) for text in texts])
    beyond = np.searchsorted(last, ends)  # the first number of the next code
    if not places or (last[beyond - 1] != ends - 1).any():
        return areas
    lanes, rows = _runs_by_parity(numbers, beyond)
    if lanes.min() < 0:
        return areas
    totals, ones = np.add.reduceat(lanes, rows).sum(axis=1).tolist(), np.add.reduceat(lanes[:, 1], rows).tolist()
    for place, total, area in zip(places, totals, ones, strict=True):
        height, width = codes[place]["size"]
        areas[place] = area if total == height * width else None
    return areas


def _is_compressed(code: Any) -> bool:
    if not isinstance(code, dict) or not isinstance(code.get("counts"), str) or not code["counts"]:
        return False
    size = code.get("size")
    return isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)


def _runs_by_parity(numbers: np.ndarray, beyond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs int64 (rows, 2) of zeros and of ones, and the row int64 (N,) at which each code begins.

    ``numbers`` int64 are those of N codes, none of them empty; ``beyond`` int64 (N,) is where the next code begins.
    """
    counts = np.diff(beyond, prepend=0)
    height = (counts + 1) // 2
    rows = np.cumsum(height) - height
    lanes = np.zeros((height.sum(), 2), np.int64)
    places = np.arange(len(numbers)) + np.repeat(2 * rows - (beyond - counts), counts)
    lanes.reshape(-1)[places] = numbers
    first = lanes[rows, 0].copy()
    lanes[rows, 0] = 0  # no run is stored as its difference from the first one
    sums = np.cumsum(lanes, axis=0)
    runs = sums - np.repeat(sums[rows] - lanes[rows], height, axis=0)
    runs[rows, 0] = first
    odd = counts % 2 > 0
    runs[(rows + height - 1)[odd], 1] = 0
    return runs, rows


def _decompress(counts: str | bytes) -> np.ndarray:
    """Runs int64 (n,) of a compressed code: from the fourth on, each minus the one before the last is stored."""
    numbers, _ = _numbers(counts if isinstance(counts, bytes) else counts.encode("ascii"))
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def _numbers(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Numbers int64 (n,) of COCO's compressed code, and the place of the last character of each.

    A character holds six bits: five of a number and one that it goes on.
    """
    characters = np.frombuffer(text, np.uint8) - 48
    if characters.max(initial=0) > 63:
        raise ValueError("a character out of range")
    last = np.flatnonzero(characters & 32 == 0)
    if len(characters) and (not len(last) or last[-1] != len(characters) - 1):
        raise ValueError("it ends within a number")
    starts = np.append(0, last + 1)[:-1].astype(np.int64)
    lengths = last + 1 - starts
    if lengths.max(initial=0) > 7:
        raise ValueError("a number out of range")
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & 31).astype(np.int64) << (5 * place), starts) if len(starts) else starts
    numbers -= np.where(characters[last] & 16, np.int64(1) << (5 * lengths), 0)
    return numbers, last


def decode_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask bool (H, W) of runs int64 (n,)."""
    mask: np.ndarray = np.repeat(np.arange(len(runs)) % 2 > 0, runs).reshape(width, height).T
    return mask


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed code of ``mask`` bool (H, W), its ``counts`` as text."""
    (code,) = encode_masks(mask[None])
    return {**code, "counts": code["counts"].decode("ascii")}


def encode_segments(ids: np.ndarray, segments: Sequence[int]) -> list[dict[str, Any]]:
    """Compressed run-length codes ``{"size": [H, W], "counts": bytes}``, in one pass over ``ids``, integer (H, W).

    ``segments`` are distinct ids; one that no pixel has gives an empty mask.
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


def id_runs(ids: np.ndarray, listed: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of one id, row by row, in the map ``ids``, integer (H, W).

    Returns:
        Which of the ``listed`` ids each run has, int64, -1 for another one; and its pixels, int64.
    """
    flat = ids.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    return positions(flat[starts], listed), np.diff(starts, append=flat.size)


def look_up(ids: np.ndarray, listed: Sequence[int] | np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` (n + 1,), those of any other id first, then of the ``listed``, of each pixel of ``ids`` int (H, W)."""
    place, lengths = id_runs(ids, listed)
    pixels: np.ndarray = np.repeat(values[place + 1], lengths).reshape(ids.shape)
    return pixels


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
    from pycocotools import mask as coco

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
