"""Things over stuff, beside a slow and obvious merge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.errors import DataError
from u2seg.pseudo.merge import merge_segments
from u2seg.structures import LabelSpace, MaskSet

SPACE = LabelSpace(5, 4)


def merge_obviously(things, clusters, stuff, max_overlap, min_area, min_visible, by):
    """Category of each pixel (0 void) and owner mask (-1), pixel by pixel from the paper's words."""
    height, width = stuff.shape
    masks = things.masks
    keys = [-mask.sum() for mask in masks] if by == "area" else things.scores
    order = sorted(range(len(masks)), key=lambda i: (keys[i], i))

    def paint(chosen):
        owner = np.full(stuff.shape, -1)
        for index in order:
            if index in chosen:
                for y in range(height):
                    for x in range(width):
                        if masks[index][y, x]:
                            owner[y, x] = index
        return owner

    owner = paint(set(order))
    smallest = max(min_area * stuff.size, 1)
    seen = [(owner == i).sum() for i in range(len(masks))]
    owner = paint({i for i in order if seen[i] >= smallest and seen[i] >= min_visible * masks[i].sum()})
    category = np.zeros(stuff.shape, int)
    for y in range(height):
        for x in range(width):
            if owner[y, x] >= 0:
                category[y, x] = clusters[owner[y, x]] + 1
    for label in range(SPACE.num_stuff):
        whole, seen = (stuff == label), (stuff == label) & (owner < 0)
        hidden = whole.sum() - seen.sum()
        if seen.sum() and seen.sum() >= min_area * stuff.size and hidden <= max_overlap * whole.sum():
            category[seen] = SPACE.num_things + label + 1
    return category, owner


@st.composite
def scenes(draw):
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    size = (draw(st.integers(2, 9)), draw(st.integers(2, 9)))
    count = draw(st.integers(0, 6))
    masks = rng.random((count, *size)) < rng.random((count, 1, 1))
    masks = masks[masks.any(axis=(1, 2))]
    stuff = rng.integers(0, 5, size).astype(np.uint8)
    stuff[stuff == 4] = 255
    clusters = rng.integers(0, 5, len(masks))
    scores = rng.random(len(masks)).astype(np.float32)
    return (
        MaskSet(masks, scores),
        clusters,
        stuff,
        draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])),
        draw(st.sampled_from([0.0, 0.1])),
    )


@settings(max_examples=200, deadline=None)
@given(scenes(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from(["area", "score"]))
def test_equals_the_obvious_merge(scene, min_visible, order):
    things, clusters, stuff, overlap, min_area = scene
    rules = {"max_stuff_overlap": overlap, "min_area": min_area, "min_visible": min_visible, "order": order}
    label, segment_of = merge_segments(things, clusters, stuff, SPACE, **rules)
    category, owner = merge_obviously(things, clusters, stuff, overlap, min_area, min_visible, order)
    table = {0: 0} | {segment.id: segment.category_id for segment in label.segments}
    assert np.array_equal(np.vectorize(table.get)(label.segment_ids), category)
    for index in range(len(things)):
        assert np.array_equal(label.segment_ids == segment_of[index], owner == index) or segment_of[index] == 0
        assert (segment_of[index] > 0) == (owner == index).any()


@settings(max_examples=50, deadline=None)
@given(scenes(), st.integers(1, 20), st.integers(1, 20))
def test_areas_and_boxes_are_exact_at_any_size(scene, height, width):
    things, clusters, stuff, overlap, min_area = scene
    label, _ = merge_segments(
        things, clusters, stuff, SPACE, max_stuff_overlap=overlap, min_area=min_area, size=(height, width)
    )
    assert label.segment_ids.shape == (height, width)
    for segment in label.segments:
        rows, columns = np.nonzero(label.segment_ids == segment.id)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert (segment.area, segment.bbox) == (len(rows), tuple(map(int, box)))
        assert segment.isthing == (segment.category_id <= SPACE.num_things)


def test_contradictions_are_refused():
    stuff = np.zeros((4, 4), np.uint8)
    things = MaskSet(np.ones((1, 4, 4), bool), np.ones(1, np.float32))
    with pytest.raises(DataError, match="clusters"):
        merge_segments(things, np.array([5]), stuff, SPACE)
    with pytest.raises(DataError, match="stuff"):
        merge_segments(things, np.array([0]), stuff + 9, SPACE)
    with pytest.raises(DataError, match="stuff"):
        merge_segments(things, np.array([0]), stuff[:2], SPACE)
