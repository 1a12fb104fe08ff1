"""The tree of regions: every node a connected mask, nothing twice, and no dependence on what should not matter."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_scenes import patches, scene

from u2seg.errors import DataError, UsageError
from u2seg.plugins.checks import check_mask_generator, check_picklable
from u2seg.pseudo.masks import regiontree
from u2seg.pseudo.masks.maskcut import components
from u2seg.pseudo.masks.regiontree import RegionTree, agreement, distinct, region_masks
from u2seg.pseudo.masks.scoring import mask_scores, outline, radius, unit_cells


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_contract():
    check_mask_generator(RegionTree())
    check_picklable(RegionTree())


def test_the_tree_holds_every_cell_and_every_merge():
    features = scene(0, 9, 11)
    masks = region_masks(unit_cells(features), 9, 11)
    assert len(masks) == 98
    assert masks[-1].all()
    assert all(len(components(mask, 1)) == 1 for mask in masks)
    sets = [frozenset(np.flatnonzero(mask)) for mask in masks]
    assert all(not (a & b) or a <= b or b <= a for a in sets for b in sets)


def test_merges_are_those_of_wards_criterion():
    features = scene(1, 5, 6)
    cells = unit_cells(features).astype(np.float64)
    regions = {index: [index] for index in range(30)}
    near = {(a, b) for a in range(30) for b in range(a) if (a - b == 6) or (a - b == 1 and a % 6)}
    wanted = []
    while len(regions) > 1:

        def cost(one, other):
            a, b = cells[regions[one]], cells[regions[other]]
            return len(a) * len(b) / (len(a) + len(b)) * ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()

        pairs = {(i, j) for i in regions for j in regions if i < j and touch(regions[i], regions[j], near)}
        one, other = min(pairs, key=lambda pair: cost(*pair))
        regions[one] = regions[one] + regions.pop(other)
        wanted.append(frozenset(regions[one]))
    masks = region_masks(unit_cells(features), 5, 6)
    assert {frozenset(np.flatnonzero(mask).tolist()) for mask in masks} == set(wanted)


def touch(one, other, near):
    return any((max(a, b), min(a, b)) in near for a in one for b in other)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(1, 12))
def test_what_is_taken_is_best_first_distinct_and_no_more_than_asked(seed, most_overlap, most):
    found = RegionTree(max_overlap=most_overlap, max_masks=most, min_score=0).generate(None, scene(seed, 14, 16))
    assert 1 <= len(found) <= most
    assert (np.diff(found.scores) <= 0).all()
    pairs = [(a, b) for i, a in enumerate(found.masks) for b in found.masks[:i]]
    assert all(overlap(a, b) <= most_overlap + 1e-9 for a, b in pairs)
    assert all(0.004 <= mask.mean() <= 0.6 for mask in found.masks)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(1,), (2,), (1, 2)]))
def test_a_flipped_photo_gives_flipped_masks(seed, axes):
    features = scene(seed, 14, 16)
    one = RegionTree(taus=()).generate(None, features).masks
    other = RegionTree(taus=()).generate(None, np.ascontiguousarray(np.flip(features, axes))).masks
    flipped = np.flip(one, axes)
    assert {mask.tobytes() for mask in flipped} == {mask.tobytes() for mask in other}


def test_agreement_is_the_best_iou():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, :1], masks[2, 3:] = True, True, True
    assert agreement(masks, masks[:1]).tolist() == [1, 0.5, 0]
    assert agreement(masks, masks[:0]).tolist() == [0, 0, 0]


def test_distinct_keeps_the_best_of_those_that_overlap():
    masks = np.zeros((4, 4, 4), bool)
    masks[0, :3], masks[1, :4], masks[2, 3:], masks[3, 0, 0] = True, True, True, True
    scores = np.array([0.5, 0.6, 0.4, 0.0], np.float32)
    assert distinct(masks, scores, 0.5, 10).tolist() == [1, 2]
    assert distinct(masks, scores, 0.8, 10).tolist() == [1, 0, 2]
    assert distinct(masks, scores, 0.8, 2).tolist() == [1, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.floats(0, 1), st.integers(1, 40), st.integers(1, 9))
def test_distinct_in_blocks_is_distinct_one_by_one(seed, count, max_overlap, most, block):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 3, 4)) < rng.random((count, 1, 1))
    scores = rng.integers(0, 5, count) / 4  # with ties and zeros
    wanted = []
    for index in np.argsort(-scores, kind="stable"):
        alike = [overlap(masks[index], masks[other]) > max_overlap for other in wanted if masks[[index, other]].any()]
        if scores[index] > 0 and not any(alike) and len(wanted) < most:
            wanted.append(index)
    with mock.patch.object(regiontree, "BLOCK", block):
        assert distinct(masks, scores, max_overlap, most).tolist() == wanted


def test_masks_that_cuts_agree_with_move_up():
    features = scene(2)
    alone, voted = (RegionTree(taus=taus, min_score=0).generate(None, features) for taus in ((), (0.4,)))
    assert voted.scores[0] <= alone.scores[0] + 1e-6
    assert not np.array_equal(alone.scores, voted.scores)


def test_masks_that_no_cut_is_like_count_as_the_least_agreement():
    features = scene(0, 8, 9)
    options = {"min_score": 0, "min_area": 0, "max_area": 1, "max_overlap": 1, "max_masks": 10_000}
    plain, floored = (RegionTree(min_agreement=least, **options).generate(None, features) for least in (0, 1))
    assert np.allclose(floored.scores, mask_scores(floored.masks, features))
    assert {mask.tobytes() for mask in plain.masks} <= {mask.tobytes() for mask in floored.masks}


def test_each_share_of_the_channels_has_a_tree_and_the_first_scores():
    first, second = scene(0, 8, 9), scene(1, 8, 9)
    options = {"taus": [], "min_score": 0, "min_area": 0, "max_area": 1, "max_overlap": 1, "max_masks": 10_000}
    found = RegionTree(trees=2, **options).generate(None, np.concatenate([first, second]))
    trees = [region_masks(unit_cells(features), 8, 9) for features in (first, second)]
    wanted = {mask.tobytes() for mask in np.concatenate(trees) if mask_scores(mask[None], first)[0] > 0}
    assert {mask.tobytes() for mask in found.masks} == wanted
    assert np.allclose(found.scores, mask_scores(found.masks, first))


def test_scale_of_features_does_not_matter():
    features = scene(3)
    one, other = (RegionTree().generate(None, features * np.float32(scale)) for scale in (1, 1000))
    assert np.array_equal(one.masks, other.masks)


def test_a_clear_blob_comes_first():
    rows, columns = np.mgrid[:20, :24]
    blob = (rows - 9) ** 2 + (columns - 11) ** 2 < 20
    features = np.random.default_rng(0).normal(size=(16, 20, 24)) * 0.1
    features[0] += np.where(blob, 1, -1)
    found = RegionTree().generate(None, features.astype(np.float32))
    assert overlap(found.masks[0], blob) > 0.9


def test_photos_give_nested_masks_that_maskcut_cannot(photos):
    found = RegionTree().generate(None, patches(photos["chelsea"]))
    assert (found.masks.sum(axis=0) > 1).any()


@pytest.mark.parametrize("shape", [(8, 1, 1), (8, 1, 9), (8, 9, 1), (8, 2, 2)])
def test_tiny_grids(shape):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert len(RegionTree(min_score=0).generate(None, features)) >= 0


def test_where_no_region_has_an_allowed_size_there_is_no_mask():
    """Cuts that find a mask have nothing to vote on then."""
    found = RegionTree(min_area=0.9, max_area=0.91).generate(None, scene(0, 6, 6))
    assert found.masks.shape == (0, 6, 6)


def test_constant_features_give_no_mask():
    assert len(RegionTree(min_score=0).generate(None, np.ones((8, 10, 12), np.float32))) == 0


def test_bad_features_and_constants_are_refused():
    with pytest.raises(DataError, match="not a finite"):
        RegionTree().generate(None, np.full((4, 5, 6), np.inf, np.float32))
    with pytest.raises(DataError, match="5 channels, which make no 2 equal shares"):
        RegionTree(trees=2).generate(None, np.ones((5, 4, 4), np.float32))
    with pytest.raises(UsageError, match="max_overlap"):
        RegionTree(max_overlap=1.5)
    with pytest.raises(UsageError, match="taus"):
        RegionTree(taus=0.4)


def test_outline_and_radius_of_a_square_and_of_a_sliver():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:6, 2:6] = masks[1, :, 3] = True
    assert outline(masks).tolist() == [16, 22]
    assert radius(masks) == pytest.approx([0.4, 40 / 22 / 10])
    assert mask_scores(masks[:0], np.ones((3, 10, 10), np.float32)).shape == (0,)
