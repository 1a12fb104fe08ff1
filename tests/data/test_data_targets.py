"""Targets and copy-paste against slow, obvious implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.data.augmentation import PanopticSample, copy_paste
from u2seg.data.targets import Segments, derive_targets, segment_rows
from u2seg.panoptic import decode_ids


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
            ys, xs = np.nonzero(mask)
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            found.append((segment["category_id"], box, mask, segment.get("score", 1.0)))
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
                "score": draw(st.sampled_from([0.25, 0.5, 1.0])),
            }
        )
    values = np.array([0, *ids, draw(st.integers(1, top + 5))], np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(values, shape), info


@settings(max_examples=150, deadline=None)
@given(labels())
def test_targets_equal_the_slow_way(label):
    ids, info = label
    targets = derive_targets(ids, Segments.from_info(info))
    sem_seg, found = slow_targets(ids, info)
    assert np.array_equal(targets.sem_seg, sem_seg)
    assert targets.sem_seg.dtype == np.uint8
    assert len(targets.masks) == len(found) == len(targets.boxes)
    for row, (category, box, mask, score) in enumerate(found):
        assert targets.classes[row] == category
        assert tuple(targets.boxes[row]) == box
        assert np.array_equal(targets.masks[row], mask)
        assert targets.scores[row] == np.float32(score)


def test_decode_ids():
    ids = np.array([[0, 1, 255], [256, 65_536, 16_777_215]], np.int32)
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
    assert np.array_equal(decode_ids(colours), ids)


def sample(rng, shape, segments=4, first=1, crowd=False):
    ids = rng.integers(0, segments + 1, shape).astype(np.int32)
    ids[ids > 0] += first - 1
    info = [
        {"id": first + n, "isthing": n % 2 == 0, "category_id": 1 + n, "iscrowd": int(crowd and n == 0), "score": 0.5}
        for n in range(segments)
    ]
    return PanopticSample(rng.integers(0, 256, (*shape, 3)).astype(np.uint8), ids, Segments.from_info(info))


@pytest.mark.parametrize("shapes", [((20, 30), (20, 30)), ((9, 40), (30, 11)), ((30, 30), (7, 8)), ((1, 1), (5, 5))])
@pytest.mark.parametrize("seed", range(5))
def test_copy_paste_at_full_size_equals_pasting_pixel_by_pixel(shapes, seed):
    rng = np.random.default_rng(seed)
    target, source = sample(rng, shapes[0]), sample(rng, shapes[1], segments=5, crowd=True)
    before = target.image.copy(), target.segment_ids.copy(), source.segment_ids.copy()
    result = copy_paste(target, source, np.random.default_rng(seed), scale=(1.0, 1.0))

    # the place is drawn after the factor
    again = np.random.default_rng(seed)
    again.uniform(1.0, 1.0)
    shift = []
    for room, length in zip(shapes[0], shapes[1], strict=True):
        shift.append(int(again.integers(min(0, room - length), max(0, room - length) + 1)))
    image, meaning = before[0].copy(), {}
    classes = dict(zip(target.segments.ids, target.segments.classes, strict=True))
    for y in range(shapes[0][0]):
        for x in range(shapes[0][1]):
            meaning[y, x] = ("old", before[1][y, x])
            v, u = y - shift[0], x - shift[1]
            if not (0 <= v < shapes[1][0] and 0 <= u < shapes[1][1]):
                continue
            row = np.flatnonzero(source.segments.ids == source.segment_ids[v, u])
            if len(row) and source.segments.isthing[row[0]] and not source.segments.crowd[row[0]]:
                meaning[y, x] = ("new", source.segment_ids[v, u])
                image[y, x] = source.image[v, u]
    assert np.array_equal(result.image, image)
    names = {}
    for (y, x), name in meaning.items():
        # one id for one meaning, and the other way round
        assert names.setdefault(name, result.segment_ids[y, x]) == result.segment_ids[y, x]
        if name[0] == "old":
            assert result.segment_ids[y, x] == name[1]
    assert len(set(names.values())) == len(names)
    for (kind, old), new in names.items():
        row = np.flatnonzero(result.segments.ids == new)
        if kind == "new":
            wanted = source.segments.classes[source.segments.ids == old][0]
            assert result.segments.classes[row[0]] == wanted
            assert result.segments.isthing[row[0]]
        elif old in classes:
            assert result.segments.classes[row[0]] == classes[old]
    assert np.array_equal(target.image, before[0])
    assert np.array_equal(target.segment_ids, before[1])
    assert np.array_equal(source.segment_ids, before[2])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 40)] * 4))
def test_copy_paste_keeps_a_partition(seed, sizes):
    rng = np.random.default_rng(seed)
    target, source = sample(rng, sizes[:2]), sample(rng, sizes[2:])
    result = copy_paste(target, source, rng)
    assert result.image.shape == target.image.shape
    changed = result.segment_ids != target.segment_ids
    assert np.array_equal(result.image[~changed], target.image[~changed])
    assert (result.segment_ids[changed] > target.segments.ids.max()).all()
    assert (np.diff(result.segments.ids) > 0).all()
    rows = segment_rows(result.segment_ids, result.segments)
    assert result.segments.isthing[rows[changed]].all()
    targets = derive_targets(result.segment_ids, result.segments)
    assert (targets.masks.sum(axis=0) <= 1).all()
    assert (targets.sem_seg[targets.masks.any(axis=0)] == 0).all()


def test_nothing_to_paste():
    rng = np.random.default_rng(0)
    target = sample(rng, (8, 8))
    source = PanopticSample(target.image, target.segment_ids, target.segments.take(~target.segments.isthing))
    assert copy_paste(target, source, rng) is target
