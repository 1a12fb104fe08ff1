"""Which grid of patches a photo becomes.

Shapes: ``H, W`` image pixels; ``h, w`` patches of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from u2seg.errors import UsageError

Grid = tuple[int, int]
"""Patches, (h, w)."""


def own_size(size: tuple[int, int], patch: int, most: Grid) -> Grid:
    """The grid of ``size`` (H, W) pixels itself, or the largest one in its shape with no more patches than ``most``."""
    grid, patches = (whole(size[0] / patch), whole(size[1] / patch)), most[0] * most[1]
    if grid[0] * grid[1] <= patches:
        return grid
    height = min(max(int(math.sqrt(patches * size[0] / size[1])), 1), patches)
    return height, min(max(int(math.sqrt(patches * size[1] / size[0])), 1), patches // height)


def whole(patches: float) -> int:
    """``patches`` rounded, at least 1."""
    return max(int(patches + 0.5), 1)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """``size`` as (height, width) pixels; UsageError unless it is a number of pixels or two of them."""
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UsageError(f"size is a number of pixels or [height, width], not {size!r}")
    return sides
