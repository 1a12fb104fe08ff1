"""Panoptic PNGs: segment ids as colours, R + 256 G + 65536 B.

Shapes: ``H, W`` image pixels; ``n`` segments.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from u2seg.errors import DataError
from u2seg.panoptic.run_lengths import id_runs

LARGEST_ID = 256**3 - 1
MAX_PIXELS = 178_956_970
"""Of a label; a file of a few kilobytes may claim any number. Pillow's own limit for photos."""


def read_ids(path: str | Path, size: tuple[int, int] | None = None, size_from: str = "its photo has") -> np.ndarray:
    """Segment ids int32 (H, W) of a panoptic PNG, 0 for none.

    By kornia-rs where it is installed (some five times faster), else by Pillow.

    Args:
        path: the PNG.
        size: H and W that it must have.
        size_from: what the error says before that size.

    Raises:
        DataError: the file is missing, broken, no RGB image, too large, or not of ``size``.
    """
    path = Path(path)
    height, width = _size(path)
    if size is not None and (height, width) != size:
        raise DataError(f"{path} has {width} x {height} pixels (width x height), {size_from} {size[1]} x {size[0]}")
    rgb = _read_by_kornia(path)
    return decode_ids(_read_by_pillow(path) if rgb is None else rgb)


def decode_ids(rgb: np.ndarray) -> np.ndarray:
    """Segment ids int32 (H, W) of colours uint8 (H, W, 3)."""
    height, width, _ = rgb.shape
    flat = np.ascontiguousarray(rgb).reshape(-1)
    ids = np.empty(height * width, np.int32)
    # Four bytes from each pixel on, the last of them of the next pixel; the last pixel has no next one.
    overlapping = np.ndarray((height * width - 1,), "<i4", buffer=flat, strides=(3,))
    np.bitwise_and(overlapping, LARGEST_ID, out=ids[:-1])
    red, green, blue = flat[-3:].tolist()
    ids[-1] = red + 256 * green + 65536 * blue
    return ids.reshape(height, width)


def segment_areas(ids: np.ndarray, listed: Sequence[int], png: str | Path) -> np.ndarray:
    """Pixels int64 (n,) of each of the ``listed`` segment ids in the map ``ids`` int32 (H, W), read from ``png``.

    Raises:
        DataError: the map holds an id that is not listed.
    """
    place, lengths = id_runs(ids, [0, *listed])
    if (place < 0).any():
        unlisted = np.setdiff1d(ids, [0, *listed])[0]
        hint = "" if (place > 0).any() else "; none of its ids is listed: are its channels in RGB order?"
        raise DataError(f"{png} holds segment id {unlisted}, which the JSON does not list{hint}")
    return np.bincount(place, weights=lengths, minlength=len(listed) + 1)[1:].astype(np.int64)


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Segment ids int (H, W) as the colours uint8 (H, W, 3) of a panoptic PNG."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def _size(path: Path) -> tuple[int, int]:
    """Height and width that the header of a PNG claims; nothing is decoded before they are known to be sound."""
    if not path.is_file():
        raise DataError(f"there is no file {path}, which the JSON names")
    try:
        with open(path, "rb") as file:
            header = file.read(24)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        raise DataError(f"{path} can't be read: it is no PNG")
    width, height = struct.unpack(">II", header[16:])
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(f"{path} claims {width} x {height} pixels, more than {MAX_PIXELS}")
    return height, width


def _read_by_kornia(path: Path) -> np.ndarray | None:
    """uint8 (H, W, 3), or None where kornia-rs is not installed, or Pillow shall say what is wrong."""
    try:
        from kornia_rs.io import read_image_png_u8

        rgb: np.ndarray = read_image_png_u8(str(path), "rgb")  # refuses all but eight bits of RGB
    except Exception:  # its errors have no common type
        return None
    return rgb


def _read_by_pillow(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if mode != "RGB":
        raise DataError(f"{path} is no panoptic PNG: its mode is {mode}, not RGB")
    return pixels
