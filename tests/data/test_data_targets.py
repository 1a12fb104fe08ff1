"""Targets and copy-paste against slow, obvious implementations."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from u2seg.data.augmentation import copy_paste
from u2seg.data.targets import LabelledImage, derive_targets

THING = [{"id": 1, "isthing": True, "category_id": 0}]


def slow_targets(ids, info):
    """One pixel and one segment at a time."""
    sem_seg = np.full(ids.shape, 255, np.uint8)
    found = []
    for segment in sorted(info, key=lambda s: s["id"]):
        mask = np.zeros(ids.shape, bool)
        for y in range(ids.shape[0]):
            for x in range(ids.shape[1]):
                if ids[y, x] == segment["id"]:
                    mask[y, x] = True
                    sem_seg[y, x] = 0 if segment["isthing"] else segment["category_id"]
        if segment["isthing"] and not segment.get("iscrowd") and mask.any():
            found.append((segment["category_id"], mask))
    return sem_seg, found


@st.composite
def labels(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    top = 16_000_000 if draw(st.booleans()) else 40
    ids = draw(st.lists(st.integers(1, top), max_size=6, unique=True))
    info = []
    for number in ids:
        isthing = draw(st.booleans())
        info.append(
            {
                "id": number,
                "isthing": isthing,
                "category_id": draw(st.integers(0, 4) if isthing else st.integers(1, 5)),
                "iscrowd": draw(st.integers(0, 1)) if isthing else 0,
            }
        )
    values = np.array([0, *ids, draw(st.integers(1, top + 5))], np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(values, shape), info


@settings(max_examples=150, deadline=None)
@given(labels())
def test_targets_equal_the_slow_way(label):
    ids, info = label
    targets = derive_targets(np.zeros((*ids.shape, 3), np.uint8), ids, info)
    sem_seg, found = slow_targets(ids, info)
    assert np.array_equal(targets.sem_seg, sem_seg)
    assert targets.sem_seg.dtype == np.uint8
    assert len(targets.masks) == len(found)
    for row, (category, mask) in enumerate(found):
        assert targets.classes[row] == category
        assert np.array_equal(targets.masks[row], mask)


@pytest.fixture(scope="module")
def literal():
    path = Path(__file__).parents[1] / "oracles" / "copy_paste_literal.py"
    return runpy.run_path(str(path))["copy_paste"]


def blocks(rng, shape, things=3):
    """A photo of noise with rectangles for things, one of them a crowd, on two kinds of stuff."""
    ids = np.full(shape, 1, np.int32)
    ids[shape[0] // 2 :] = 2
    info = [{"id": 1, "isthing": False, "category_id": 1}, {"id": 2, "isthing": False, "category_id": 2}]
    for number in range(3, 3 + things):
        y, x = (int(rng.integers(side)) for side in shape)
        ids[y : y + shape[0] // 2 + 1, x : x + shape[1] // 3 + 1] = number
        info.append({"id": number, "isthing": True, "category_id": number, "iscrowd": int(number == 4)})
    info = [segment for segment in info if (ids == segment["id"]).any()]
    return derive_targets(rng.integers(0, 256, (*shape, 3)).astype(np.uint8), ids, info)


@pytest.mark.parametrize("shapes", [((20, 30), (20, 30)), ((9, 40), (30, 11)), ((30, 30), (7, 8)), ((1, 1), (5, 5))])
@pytest.mark.parametrize("seed", range(8))
def test_copy_paste_equals_pasting_one_thing_after_another(shapes, seed, literal):
    rng = np.random.default_rng(seed)
    target, source = blocks(rng, shapes[0]), blocks(rng, shapes[1], things=5)
    before = copy.deepcopy((vars(target), vars(source)))
    result = copy_paste(target, source, np.random.default_rng(seed))
    expected = literal(vars(target), vars(source), np.random.default_rng(seed))
    for name, values in expected.items():
        assert np.array_equal(getattr(result, name), values), name
    for values, sample in zip(before, (target, source), strict=True):
        assert all(np.array_equal(values[name], getattr(sample, name)) for name in values)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 14)] * 4), st.integers(0, 3), st.integers(1, 4))
def test_masks_that_overlap_are_pasted_one_after_another_too(literal, seed, sides, things, others):
    rng = np.random.default_rng(seed)
    target, source = whole(rng, sides[:2], things), whole(rng, sides[2:], others)
    result = copy_paste(target, source, np.random.default_rng(seed))
    for name, values in literal(vars(target), vars(source), np.random.default_rng(seed)).items():
        assert np.array_equal(getattr(result, name), values), name


def whole(rng, shape, things):
    """A photo of noise with rectangles that may overlap and lie on stuff."""
    masks = np.zeros((things, *shape), bool)
    for mask in masks:
        y, x = (int(rng.integers(side)) for side in shape)
        mask[y : y + shape[0] // 2 + 1, x : x + shape[1] // 2 + 1] = True
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    return LabelledImage(image, masks, rng.integers(0, 9, things), rng.integers(0, 3, shape).astype(np.uint8))


def test_copy_paste_pastes_a_random_subset():
    rng = np.random.default_rng(0)
    target = derive_targets(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.int32), [])
    source = blocks(rng, (40, 40), things=6)
    counts = {len(copy_paste(target, source, np.random.default_rng(seed)).masks) for seed in range(60)}
    assert counts == set(range(1, len(source.masks) + 1))


def test_copy_paste_drops_what_would_overlap_an_existing_thing_by_half():
    """The whole frame is one thing: at full size a pasted one of the same extent has IoU 1 with it."""
    ids = np.ones((20, 20), np.int32)
    target, source = (derive_targets(np.full((20, 20, 3), colour, np.uint8), ids, THING) for colour in (0, 9))
    same = copy_paste(target, source, np.random.default_rng(0), scale=(1.0, 1.0))
    assert np.array_equal(same.image, target.image)
    assert len(same.classes) == 1
    for factor, pasted in ((0.8, False), (0.7, True)):  # IoU 0.64 and 0.49
        result = copy_paste(target, source, np.random.default_rng(0), scale=(factor, factor))
        assert (len(result.classes) == 2) == pasted
        assert (result.image == 9).any() == pasted


def test_copy_paste_brings_the_source_to_the_targets_frame():
    source = derive_targets(np.full((10, 40, 3), 9, np.uint8), np.ones((10, 40), np.int32), THING)
    target = derive_targets(np.zeros((60, 20, 3), np.uint8), np.zeros((60, 20), np.int32), [])
    (mask,) = copy_paste(target, source, np.random.default_rng(0), scale=(0.5, 0.5)).masks
    rows, columns = np.nonzero(mask)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (30, 10)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 40)] * 4))
def test_copy_paste_keeps_a_partition(seed, sizes):
    rng = np.random.default_rng(seed)
    target, source = blocks(rng, sizes[:2]), blocks(rng, sizes[2:])
    result = copy_paste(target, source, rng)
    assert result.image.shape == target.image.shape
    things = result.masks.any(axis=0)
    assert (result.masks.sum(axis=0) <= 1).all()
    assert (result.sem_seg[things] == 0).all()
    changed = (result.image != target.image).any(axis=2) | (result.sem_seg != target.sem_seg)
    assert (things | ~changed).all()


def test_nothing_to_paste():
    rng = np.random.default_rng(0)
    target = blocks(rng, (8, 8))
    assert copy_paste(target, blocks(rng, (8, 8), things=0), rng) is target


def test_more_segments_than_a_byte_counts():
    ids = np.arange(300, dtype=np.int32).reshape(15, 20)
    info = [{"id": number, "isthing": True, "category_id": 0} for number in range(1, 300)]
    targets = derive_targets(np.zeros((15, 20, 3), np.uint8), ids, info)
    assert targets.masks.sum(axis=(1, 2)).tolist() == [1] * 299
