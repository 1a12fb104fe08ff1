"""Segment ids from panoptic PNGs, by kornia-rs where it is installed (some five times faster), else by Pillow.

Shapes: ``H, W`` image pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from u2seg.errors import DataError

LARGEST_ID = 256**3 - 1
"""A panoptic PNG codes ids as R + 256 G + 65536 B."""


def read_ids(path: Path) -> np.ndarray:
    """Segment ids int32 (H, W) of a panoptic PNG.

    Raises:
        DataError: the file is missing, broken, or no RGB image.
    """
    reader = _fast_reader()
    rgb = reader(path) if reader is not None else None
    return ids_of(_read_by_pillow(path) if rgb is None else rgb)


def ids_of(rgb: np.ndarray) -> np.ndarray:
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


@cache
def _fast_reader() -> Callable[[Path], np.ndarray | None] | None:
    """Something that reads uint8 (H, W, 3), or None where Pillow shall say what is wrong; None if not installed."""
    try:
        from kornia_rs.io import read_image_png_u8
    except ImportError:
        return None

    def read(path: Path) -> np.ndarray | None:
        try:
            rgb: np.ndarray = read_image_png_u8(str(path), "rgb")  # refuses all but eight bits of RGB
        except Exception:  # its errors have no common type
            return None
        return rgb

    return read


def _read_by_pillow(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise DataError(f"{path} is no panoptic PNG: its mode is {image.mode}, not RGB")
            return np.asarray(image)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}, which the JSON names") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
