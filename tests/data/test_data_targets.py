"""Targets and copy-paste against slow, obvious implementations."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.data.augmentation import PanopticSample, copy_paste
from u2seg.data.targets import derive_targets, number_segments
from u2seg.panoptic import decode_ids

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
    targets = derive_targets(*number_segments(ids, info))
    sem_seg, found = slow_targets(ids, info)
    assert np.array_equal(targets.sem_seg, sem_seg)
    assert targets.sem_seg.dtype == np.uint8
    assert len(targets.masks) == len(found)
    for row, (category, mask) in enumerate(found):
        assert targets.classes[row] == category
        assert np.array_equal(targets.masks[row], mask)


def test_decode_ids():
    ids = np.array([[0, 1, 255], [256, 65_536, 16_777_215]], np.int32)
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
    assert np.array_equal(decode_ids(colours), ids)


def as_masks(sample):
    """What the literal copy-paste starts from."""
    numbers = np.flatnonzero(sample.segments.instances) + 1
    masks = np.array([sample.segment_ids == number for number in numbers]).reshape(-1, *sample.segment_ids.shape)
    sem_seg = derive_targets(sample.segment_ids, sample.segments).sem_seg
    classes = sample.segments.classes[sample.segments.instances]
    return {"image": sample.image, "sem_seg": sem_seg, "masks": masks, "classes": classes}


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
    return labelled(rng.integers(0, 256, (*shape, 3)).astype(np.uint8), ids, info)


def labelled(image, ids, info):
    return PanopticSample(image, *number_segments(ids, info))


@pytest.mark.parametrize("shapes", [((20, 30), (20, 30)), ((9, 40), (30, 11)), ((30, 30), (7, 8)), ((1, 1), (5, 5))])
@pytest.mark.parametrize("seed", range(8))
def test_copy_paste_equals_pasting_one_thing_after_another(shapes, seed, literal):
    rng = np.random.default_rng(seed)
    target, source = blocks(rng, shapes[0]), blocks(rng, shapes[1], things=5)
    before = [part.copy() for part in (target.image, target.segment_ids, source.image, source.segment_ids)]
    result = copy_paste(target, source, np.random.default_rng(seed))
    expected = literal(as_masks(target), as_masks(source), np.random.default_rng(seed))
    targets = derive_targets(result.segment_ids, result.segments)
    assert np.array_equal(result.image, expected["image"])
    for name in ("masks", "classes", "sem_seg"):
        assert np.array_equal(getattr(targets, name), expected[name]), name
    after = (target.image, target.segment_ids, source.image, source.segment_ids)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_copy_paste_pastes_a_random_subset():
    rng = np.random.default_rng(0)
    target = labelled(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.int32), [])
    source = blocks(rng, (40, 40), things=6)
    listed = int(source.segments.instances.sum())
    counts = {len(copy_paste(target, source, np.random.default_rng(seed)).segments.classes) for seed in range(60)}
    assert counts == set(range(1, listed + 1))


def test_copy_paste_drops_what_would_overlap_an_existing_thing_by_half():
    """The whole frame is one thing: at full size a pasted one of the same extent has IoU 1 with it."""
    ids = np.ones((20, 20), np.int32)
    target = labelled(np.zeros((20, 20, 3), np.uint8), ids, THING)
    source = labelled(np.full((20, 20, 3), 9, np.uint8), ids, THING)
    same = copy_paste(target, source, np.random.default_rng(0), scale=(1.0, 1.0))
    assert np.array_equal(same.image, target.image)
    assert len(same.segments.classes) == 1
    for factor, pasted in ((0.8, False), (0.7, True)):  # IoU 0.64 and 0.49
        result = copy_paste(target, source, np.random.default_rng(0), scale=(factor, factor))
        assert (len(result.segments.classes) == 2) == pasted
        assert (result.image == 9).any() == pasted


def test_copy_paste_brings_the_source_to_the_targets_frame():
    ids = np.ones((10, 40), np.int32)
    source = labelled(np.full((10, 40, 3), 9, np.uint8), ids, THING)
    target = labelled(np.zeros((60, 20, 3), np.uint8), np.zeros((60, 20), np.int32), [])
    result = copy_paste(target, source, np.random.default_rng(0), scale=(0.5, 0.5))
    rows, columns = np.nonzero(result.segment_ids)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (30, 10)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 40)] * 4))
def test_copy_paste_keeps_a_partition(seed, sizes):
    rng = np.random.default_rng(seed)
    target, source = blocks(rng, sizes[:2]), blocks(rng, sizes[2:])
    result = copy_paste(target, source, rng)
    assert result.image.shape == target.image.shape
    changed = result.segment_ids != target.segment_ids
    assert np.array_equal(result.image[~changed], target.image[~changed])
    assert (result.segment_ids[changed] > len(target.segments.classes)).all()
    assert result.segment_ids.max() <= len(result.segments.classes)
    targets = derive_targets(result.segment_ids, result.segments)
    assert (targets.masks.sum(axis=0) <= 1).all()
    assert (targets.sem_seg[changed] == 0).all()
    assert (targets.sem_seg[targets.masks.any(axis=0)] == 0).all()


def test_nothing_to_paste():
    rng = np.random.default_rng(0)
    target = blocks(rng, (8, 8))
    assert copy_paste(target, blocks(rng, (8, 8), things=0), rng) is target


def test_more_segments_than_a_byte_counts():
    ids = np.arange(300, dtype=np.int32).reshape(15, 20)
    info = [{"id": number, "isthing": True, "category_id": 0} for number in range(1, 300)]
    rng = np.random.default_rng(0)
    many, few = labelled(np.zeros((15, 20, 3), np.uint8), ids, info), blocks(rng, (15, 20), things=5)
    for target, source in ((many, few), (few, many)):
        result = copy_paste(target, source, np.random.default_rng(1), scale=(1.0, 1.0))
        assert len(result.segments.classes) > len(target.segments.classes)
        assert len(derive_targets(result.segment_ids, result.segments).masks)
