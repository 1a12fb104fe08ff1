"""The arrays' contracts and the one numbering of labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from u2seg.errors import DataError
from u2seg.structures import LabelSpace, MaskSet, PanopticLabel, Segment


@given(st.integers(0, 900), st.integers(0, 254))
def test_categories_are_numbered_things_then_stuff(things, stuff):
    space = LabelSpace(things, stuff)
    categories = space.categories()
    assert [c["id"] for c in categories] == list(range(1, things + stuff + 1))
    assert all(bool(c["isthing"]) == space.is_thing(c["id"]) for c in categories)
    if things:
        assert space.thing_category(things - 1) == things
    if stuff:
        assert space.stuff_category(0) == things + 1


def test_more_stuff_than_a_map_holds_is_refused():
    with pytest.raises(DataError, match="254"):
        LabelSpace(1, 255)


@pytest.mark.parametrize(
    ("masks", "scores"),
    [
        (np.ones((1, 2, 2)), np.ones(1, np.float32)),
        (np.ones((1, 2, 2), bool), np.ones(2, np.float32)),
        (np.ones((1, 2, 2), bool), np.ones(1)),
        (np.zeros((1, 2, 2), bool), np.ones(1, np.float32)),
        (np.ones((1, 2, 2), bool), np.full(1, 1.5, np.float32)),
        (np.ones((1, 2, 2), bool), np.full(1, np.nan, np.float32)),
    ],
    ids=["dtype", "length", "float64", "empty", "above 1", "nan"],
)
def test_a_mask_set_checks_itself(masks, scores):
    with pytest.raises(DataError):
        MaskSet(masks, scores)


def test_a_panoptic_label_lists_its_segments():
    ids = np.array([[0, 1], [1, 2]], np.int32)
    segments = (Segment(1, 4, True, 2, (0, 0, 2, 2)), Segment(2, 5, False, 1, (1, 1, 1, 1)))
    assert PanopticLabel(ids, segments).segments == segments
    with pytest.raises(DataError, match="exactly"):
        PanopticLabel(ids, segments[:1])
