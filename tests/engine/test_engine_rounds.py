"""The rule of a round of self-training, beside slow and obvious versions of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.engine.rounds import merge_things
from u2seg.pseudo.masks.regiontree import overlaps
from u2seg.structures import MaskSet


def rectangles(rng, count, height=12, width=14):
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        y, x = rng.integers(0, height - 2), rng.integers(0, width - 2)
        mask[y : y + rng.integers(2, height), x : x + rng.integers(2, width)] = True
    # few different scores, so that some are equal to each other and to the threshold
    return MaskSet(masks, (rng.integers(0, 5, count) / 4).astype(np.float32))


def pixels(mask):
    return set(zip(*np.nonzero(mask), strict=True))


def literal_iou(first, second):
    first, second = pixels(first), pixels(second)
    return len(first & second) / len(first | second)


def literal_merge(predicted, before, min_score, max_iou):
    """The rule in words: best first; each drops what it overlaps too much, of the predictions and of the labels."""
    waiting = sorted(range(len(predicted)), key=lambda i: (-predicted.scores[i], i))
    waiting = [i for i in waiting if predicted.scores[i] > min_score]
    taken, stay = [], list(range(len(before)))
    while waiting:
        best = waiting.pop(0)
        taken.append(best)
        mask = predicted.masks[best]
        waiting = [i for i in waiting if literal_iou(mask, predicted.masks[i]) <= max_iou]
        stay = [i for i in stay if literal_iou(mask, before.masks[i]) <= max_iou]
    return taken, stay


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.25, 0.6]),
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
def test_things_are_merged_as_the_rule_says(seed, count, earlier, min_score, max_iou):
    rng = np.random.default_rng(seed)
    predicted, before = rectangles(rng, count), rectangles(rng, earlier)
    copies = [array.copy() for array in (predicted.masks, predicted.scores, before.masks, before.scores)]
    taken, stay = merge_things(predicted, before, min_score=min_score, max_iou=max_iou)
    assert (taken.tolist(), stay.tolist()) == literal_merge(predicted, before, min_score, max_iou)
    assert taken.dtype == stay.dtype == np.int64
    after = [predicted.masks, predicted.scores, before.masks, before.scores]
    assert all(np.array_equal(a, b) for a, b in zip(copies, after, strict=True))
    chosen = predicted.take(taken)
    together = np.concatenate([chosen.masks, before.masks[stay]])
    overlap = overlaps(chosen.masks, together)
    overlap[np.arange(len(taken)), np.arange(len(taken))] = 0
    assert (overlap <= max_iou).all()
    assert (chosen.scores > min_score).all()


def test_an_iou_of_exactly_the_limit_and_a_score_of_exactly_the_threshold():
    def mask(start, stop):
        found = np.zeros((1, 12), bool)
        found[0, start:stop] = True
        return found

    before = MaskSet(np.stack([mask(0, 4), mask(0, 3), mask(6, 12)]), np.ones(3, np.float32))
    predicted = MaskSet(np.stack([mask(0, 2), mask(6, 12)]), np.array([0.75, 0.5], np.float32))
    taken, stay = merge_things(predicted, before, min_score=0.5, max_iou=0.5)
    assert taken.tolist() == [0]  # a score must be above the threshold
    assert stay.tolist() == [0, 2]  # 2 of 4 pixels are an IoU of 0.5, and not above it; 2 of 3 are


def test_without_predictions_the_labels_stay_as_they_are():
    before = rectangles(np.random.default_rng(0), 5)
    taken, stay = merge_things(MaskSet.empty(12, 14), before, min_score=0.5, max_iou=0.5)
    assert (taken.tolist(), stay.tolist()) == ([], [0, 1, 2, 3, 4])
    taken, stay = merge_things(before, MaskSet.empty(12, 14), min_score=1.0, max_iou=0.5)
    assert (taken.tolist(), stay.tolist()) == ([], [])


def test_the_labels_predicted_again_are_the_labels():
    before = MaskSet(np.eye(6, dtype=bool).reshape(6, 2, 3), np.full(6, 0.9, np.float32))
    taken, stay = merge_things(before, before, min_score=0.5, max_iou=0.5)
    assert (taken.tolist(), stay.tolist()) == ([0, 1, 2, 3, 4, 5], [])
