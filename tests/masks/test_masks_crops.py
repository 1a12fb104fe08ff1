"""Masks of the corners of a photo, beside those of the whole."""

import numpy as np
from scipy.ndimage import label

from u2seg.pseudo.masks.crops import (
    LEAST_PIECE,
    SAME_PIECE,
    Box,
    View,
    choose,
    corner_boxes,
    groups,
    whole_box,
    whole_things,
)
from u2seg.pseudo.masks.regiontree import overlaps
from u2seg.structures import MaskSet


def masks_of(*slices, size=(10, 10), scores=None):
    masks = np.zeros((len(slices), *size), bool)
    for mask, (rows, columns) in zip(masks, slices, strict=True):
        mask[rows, columns] = True
    return MaskSet(masks, np.float32(scores or [0.5] * len(slices)))


def view(box, masks):
    return View(box, np.zeros((1, *masks.masks.shape[1:]), np.float32), masks)


def test_corners_cover_the_photo_and_overlap():
    boxes = corner_boxes(100, 60, 0.6)
    assert boxes[0] == Box(0, 0, 60, 36)
    assert boxes[-1] == Box(40, 24, 100, 60)
    covered = np.zeros((100, 60), int)
    for box in boxes:
        box.of(covered)[...] += 1
    assert covered.min() == 1
    assert covered[50, 30] == 4


def test_masks_that_an_inner_edge_cuts_or_that_are_large_are_left_out():
    masks = masks_of(
        (slice(0, 3), slice(0, 3)),  # at the photo's own border
        (slice(4, 6), slice(7, 10)),  # cut by the crop's right edge
        (slice(7, 10), slice(2, 4)),  # cut by its bottom edge
        (slice(2, 8), slice(2, 8)),  # too large
        (slice(4, 6), slice(4, 6)),
    )
    kept = whole_things(masks, Box(0, 0, 60, 60), 100, 100)
    assert np.array_equal(kept.masks, masks.masks[[0, 4]])
    assert len(whole_things(masks, Box(0, 0, 100, 100), 100, 100)) == 4


def test_of_masks_alike_in_two_views_the_better_is_kept():
    image = np.zeros((100, 100, 3), np.uint8)
    whole = masks_of((slice(2, 4), slice(2, 4)), (slice(6, 9), slice(6, 9)), scores=[0.4, 0.9])
    crop = masks_of((slice(4, 8), slice(4, 8)), (slice(0, 2), slice(0, 2)), scores=[0.5, 0.1])
    kept = choose([view(whole_box(image), whole), view(Box(0, 0, 50, 50), crop)], 100, 100)
    assert [index.tolist() for index in kept] == [[1], [0, 1]]


def test_views_without_masks_are_no_trouble():
    image = np.zeros((40, 30, 3), np.uint8)
    kept = choose([view(whole_box(image), MaskSet.empty(4, 3)), view(Box(0, 0, 20, 15), MaskSet.empty(4, 3))], 40, 30)
    assert [len(index) for index in kept] == [0, 0]


def test_a_mask_whose_pieces_are_masks_too_is_a_group():
    left, right, lower = np.zeros((3, 20, 30), bool)
    left[2:8, 2:8] = right[2:8, 12:18] = lower[12:18, 2:8] = True
    crumb = left.copy()
    crumb[0, 29] = True  # too small to be a piece
    masks = np.stack([left, right, left | right, left | lower, crumb, lower | left | right])
    assert groups(masks).tolist() == [False, False, True, False, False, False]
    assert groups(np.concatenate([masks, lower[None]])).tolist() == [False, False, True, True, False, True, False]
    assert not groups(masks[:0]).size
    assert not groups(masks[2:3]).any()


def test_groups_are_those_of_comparing_every_piece_with_every_mask():
    rng, num_groups = np.random.default_rng(0), 0
    for _ in range(30):
        squares = np.zeros((8, 24, 24), bool)
        for square, (row, column, side) in zip(squares, rng.integers(1, 20, (8, 3)), strict=True):
            square[row : row + side % 6 + 2, column : column + side % 6 + 2] = True
        masks = np.concatenate([squares, squares[:4] | squares[4:], np.roll(squares[:4], 1, axis=1)])
        slow = []
        for index, mask in enumerate(masks):
            regions, count = label(mask)
            pieces = [regions == number + 1 for number in range(count)]
            pieces = [piece for piece in pieces if piece.sum() >= LEAST_PIECE * mask.sum()]
            others = np.delete(masks, index, axis=0)
            slow.append(len(pieces) > 1 and bool((overlaps(np.array(pieces), others) > SAME_PIECE).any(axis=1).all()))
        assert groups(masks).tolist() == slow
        num_groups += sum(slow)
    assert num_groups


def test_ragged_masks_are_looked_at_piece_by_piece():
    masks = np.zeros((2, 1000, 1000), bool)
    masks[:, 100:400, 100:400] = True
    masks[:, ::10, ::10] = True  # ten thousand specks, which would be 10 GB as masks of their own
    assert not groups(masks).any()
