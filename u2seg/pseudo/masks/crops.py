"""Small things from crops: four overlapping corners of the photo, each as large a grid as the whole photo has.

Any mask generator can be run on them; what it finds there is masks of a size that the whole photo's grid is too coarse
for. Measured in ``docs/research/proposals.md``.

Shapes: ``H, W`` pixels of the photo; ``D, h, w`` features; ``N`` masks of one view, ``n`` of them kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from u2seg.pseudo.masks.regiontree import distinct, overlaps
from u2seg.pseudo.refine.resize import resize_scores
from u2seg.structures import MaskSet

MOST_OF_CROP = 0.25
"""A mask that covers more of a crop is left to the whole photo."""
MAX_OVERLAP = 0.7
"""Of two masks of a photo with a higher IoU only the better one is kept."""
MOST = 100
"""Masks of a photo: as many as COCO's scores look at."""
LEAST_PIECE = 0.1
"""Smallest piece of a mask that counts as one, share of the mask."""
SAME_PIECE = 0.5
"""A piece and a mask with an IoU above this show the same thing."""
LONGEST = 160
"""Cells of the longer side of the grid on which masks of different views are compared."""


class Box(NamedTuple):
    """A part of a photo, in pixels; the end is outside."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """What it holds of ``pixels`` (H, W, ...)."""
        return pixels[self.top : self.bottom, self.left : self.right]


class View(NamedTuple):
    """A part of a photo, and what was found in it."""

    box: Box
    features: np.ndarray
    """float32 (D, h, w)"""
    masks: MaskSet
    """bool (N, h, w), on any grid that covers the part"""


def whole_box(image: np.ndarray) -> Box:
    """All of ``image`` (H, W, ...)."""
    return Box(0, 0, *image.shape[:2])


def corner_boxes(height: int, width: int, share: float) -> list[Box]:
    """The four corners of a photo, ``share`` of each of its sides; they overlap where that is more than a half."""
    h, w = max(1, round(share * height)), max(1, round(share * width))
    return [Box(top, left, top + h, left + w) for top in (0, height - h) for left in (0, width - w)]


def whole_things(masks: MaskSet, box: Box, height: int, width: int) -> MaskSet:
    """Those of ``masks`` bool (N, h, w) of the crop ``box`` that no inner edge cuts and that are not too large."""
    grid = masks.masks
    cut = np.zeros(len(masks), bool)
    for is_inner, line in (
        (box.top > 0, grid[:, 0]),
        (box.bottom < height, grid[:, -1]),
        (box.left > 0, grid[:, :, 0]),
        (box.right < width, grid[:, :, -1]),
    ):
        cut |= is_inner & line.any(axis=1)
    return masks.take(np.flatnonzero(~cut & (grid.mean(axis=(1, 2)) <= MOST_OF_CROP)))


def choose(views: Sequence[View], height: int, width: int) -> list[np.ndarray]:
    """Which masks of each view to keep, int64 (n,): the best of the photo, no two alike.

    Args:
        views: the whole photo and its crops.
        height: H.
        width: W.
    """
    scale = min(1.0, LONGEST / max(height, width))
    common = np.concatenate([_place(view.masks, view.box, height, width, scale) for view in views])
    scores = np.concatenate([view.masks.scores for view in views])
    kept = distinct(common, np.where(common.any(axis=(1, 2)), scores, 0), MAX_OVERLAP, MOST)
    starts = np.cumsum([0, *(len(view.masks) for view in views)])
    return [np.sort(kept[(kept >= start) & (kept < end)]) - start for start, end in itertools.pairwise(starts)]


def groups(masks: np.ndarray) -> np.ndarray:
    """Which of ``masks`` bool (N, h, w) are of several pieces each of which is a mask of its own, bool (N,).

    Alike things apart from each other, such as coins on a table, are one node of the tree before they are one each.
    """
    from scipy.ndimage import label

    are_groups, areas = np.zeros(len(masks), bool), masks.sum(axis=(1, 2))
    for index, mask in enumerate(masks):
        box = _bounds(mask)
        regions, _ = label(box.of(mask))  # most masks are small, and their boxes too
        sizes = np.bincount(regions.ravel())[1:]
        large = 1 + np.flatnonzero(sizes >= LEAST_PIECE * sizes.sum())  # of a ragged mask's thousands, ten at most
        if len(large) > 1:
            pieces = np.zeros((len(large), *mask.shape), bool)
            pieces[:, box.top : box.bottom, box.left : box.right] = regions == large[:, None, None]
            least, most = SAME_PIECE * sizes[large - 1].min(), sizes[large - 1].max() / SAME_PIECE
            alike = (areas > least) & (areas < most)  # others can't have so high an IoU, and comparing takes long
            alike[index] = False
            are_groups[index] = (overlaps(pieces, masks[alike]) > SAME_PIECE).any(axis=1).all()
    return are_groups


def _bounds(mask: np.ndarray) -> Box:
    """The smallest box that holds all of ``mask`` bool (h, w), which is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _place(masks: MaskSet, box: Box, height: int, width: int, scale: float) -> np.ndarray:
    """``masks`` bool (N, h, w) of ``box`` on the grid of the whole photo times ``scale``, bool (N, H', W')."""
    top, left, bottom, right = (round(scale * edge) for edge in box)
    placed = np.zeros((len(masks), round(scale * height), round(scale * width)), bool)
    placed[:, top:bottom, left:right] = resize_scores(masks.masks, bottom - top, right - left) > 0.5
    return placed
