"""Masks and stuff from grid to pixels, with refiners whose answer is known."""

import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from u2seg.errors import DataError, UsageError
from u2seg.pseudo.refine.densecrf import BilateralRefiner, DenseCRFRefiner
from u2seg.pseudo.refine.masks import _likeliest, mask_iou, refine_masks, refine_stuff
from u2seg.pseudo.refine.resize import Upsample, resize_scores, shrink_image
from u2seg.structures import MaskSet

IMAGE = np.zeros((40, 60, 3), np.uint8)


class Shift:
    """Moves what it is given ``step`` pixels to the right, at pixels."""

    def __init__(self, step):
        self.step = step

    def refine(self, image, scores):
        return np.roll(resize_scores(scores, *image.shape[:2]), self.step, axis=2)


def one_mask(score=0.5):
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 10:30, 10:30] = True
    return MaskSet(mask, np.array([score], np.float32))


def test_iou_filter():
    # A square of 20 moved by 5 keeps 15 of 25 columns.
    assert len(refine_masks(Shift(5), IMAGE, one_mask(), 0.59)) == 1
    assert len(refine_masks(Shift(5), IMAGE, one_mask(), 0.61)) == 0
    assert len(refine_masks(Shift(25), IMAGE, one_mask(), 0.0)) == 1, "0 keeps all"


def test_a_mask_that_becomes_another_may_stay_as_it_was():
    class Everything:
        def refine(self, image, scores):
            return np.stack([np.zeros(image.shape[:2]), np.ones(image.shape[:2])]).astype(np.float32)

    image = np.zeros((8, 8, 3), np.uint8)
    masks = np.zeros((1, 8, 8), bool)
    masks[0, :2, :2] = True
    coarse = MaskSet(masks, np.float32([0.5]))
    assert len(refine_masks(Everything(), image, coarse, 0.5)) == 0
    assert np.array_equal(refine_masks(Everything(), image, coarse, 0.5, keep_rough=True).masks, masks)


def test_shares_of_cells_move_the_outline():
    """A cell that is nearly out, of two that are in, moves the outline by most of its width."""
    masks = np.zeros((1, 1, 4), bool)
    masks[0, 0, :2] = True
    coarse, image = MaskSet(masks, np.float32([0.5])), np.zeros((10, 400, 3), np.uint8)
    plain = refine_masks(Upsample(), image, coarse, 0.0)
    moved = refine_masks(Upsample(), image, coarse, 0.0, inside=np.float32([[[1, 0.55, 0, 0]]]))
    assert plain.masks[0, 0].sum() == 200
    assert moved.masks[0, 0].sum() == pytest.approx(150 + 100 * 0.05 / 0.55, abs=1)
    assert np.array_equal(refine_masks(Upsample(), image, coarse, 0.0, inside=masks).masks, plain.masks)


def test_the_filter_compares_with_the_interpolated_mask():
    coarse = MaskSet(np.ones((1, 1, 1), bool), np.ones(1, np.float32))
    assert refine_masks(Upsample(), IMAGE, coarse, 1.0).masks.all()


def test_order_scores_and_size():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 8, 12)) > 0.5
    found = MaskSet(masks, rng.random(6).astype(np.float32))
    refined = refine_masks(Upsample(), IMAGE, found, 0.5)
    assert refined.masks.shape == (6, 40, 60)
    assert np.array_equal(refined.scores, found.scores)
    for before, after in zip(masks, refined.masks, strict=True):
        assert np.array_equal(after, resize_scores(before[None].astype(np.float32), 40, 60)[0] > 0.5)


def test_masks_at_pixels_are_left_by_none():
    assert np.array_equal(refine_masks(Upsample(), IMAGE, one_mask(), 0.5).masks, one_mask().masks)


class Eraser:
    def refine(self, image, scores):
        found = np.zeros((len(scores), *image.shape[:2]), np.float32)
        found[0] = 1
        return found


def test_what_becomes_empty_is_dropped():
    assert refine_masks(Eraser(), IMAGE, one_mask(), 0.0).masks.shape == (0, 40, 60)


def test_no_masks():
    assert refine_masks(BilateralRefiner(), IMAGE, MaskSet.empty(5, 5), 0.5).masks.shape == (0, 40, 60)


def test_refine_many_is_refine():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    many = [rng.random((count, 8, 12)).astype(np.float32) for count in (2, 3, 2, 2)]
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    for refiner in (BilateralRefiner(), DenseCRFRefiner(iterations=2)):
        for scores, found in zip(many, refiner.refine_many(image, many), strict=True):
            assert np.allclose(found, refiner.refine(image, scores), atol=1e-4)  # steps enlarge what rounding leaves


def test_read_only_images_are_taken():
    bright = np.repeat(one_mask().masks[0][..., None], 3, axis=2).astype(np.uint8) * 200
    image = np.frombuffer(bright.tobytes(), np.uint8).reshape(40, 60, 3)
    assert not image.flags.writeable
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    for refiner in (BilateralRefiner(), DenseCRFRefiner(iterations=2), Upsample()):
        assert len(refine_masks(refiner, image, one_mask(), 0.0)) == 1


def test_stuff_probabilities():
    probabilities = np.zeros((5, 4, 6), np.float32)
    probabilities[3, :, :3] = 1
    probabilities[1, :, 3:] = 0.8
    found = refine_stuff(Upsample(), IMAGE, probabilities)
    assert found.dtype == np.uint8
    assert found.shape == (40, 60)
    assert (found[:, :28] == 3).all()
    assert (found[:, 32:] == 1).all()


def test_stuff_void():
    probabilities = np.zeros((5, 4, 6), np.float32)
    assert (refine_stuff(Upsample(), IMAGE, probabilities) == 255).all()
    probabilities[2, :, 3:] = 1
    found = refine_stuff(Upsample(), IMAGE, probabilities)
    assert (found[:, :28] == 255).all()
    assert (found[:, 32:] == 2).all()


def test_only_classes_that_are_present_are_refined():
    seen = []

    class Spy(Upsample):
        def refine(self, image, scores):
            seen.append(len(scores))
            return super().refine(image, scores)

    probabilities = np.full((254, 4, 6), 0.001, np.float32)
    probabilities[3, :, :3] = probabilities[200, :, 3:] = 0.7
    found = refine_stuff(Spy(), IMAGE, probabilities)
    assert seen == [2]
    assert set(np.unique(found)) == {3, 200}


@given(st.integers(1, 6), st.integers(0, 99))
def test_the_likeliest_channel_is_argmax_with_ties_too(channels, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (channels, 4, 5)).astype(np.float32)
    assert np.array_equal(_likeliest(scores), scores.argmax(axis=0))


def test_finished_stuff_labels_are_kept():
    labels = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    assert np.array_equal(refine_stuff(Upsample(), IMAGE, labels), labels)
    with pytest.raises(DataError, match="uint8"):
        refine_stuff(Upsample(), IMAGE, labels[1:])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_resizing_stays_between_the_extremes_and_is_linear(h, w, height, width, seed):
    scores = np.random.default_rng(seed).random((2, h, w)).astype(np.float32)
    found = resize_scores(scores, height, width)
    assert found.shape == (2, height, width)
    assert found.min() >= scores.min() - 1e-6
    assert found.max() <= scores.max() + 1e-6
    assert np.allclose(resize_scores(1 - scores, height, width), 1 - found, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 61), (7, 11), (7, 30)])
def test_enlarging_is_pillows(size):
    scores = np.random.default_rng(0).random((7, 11)).astype(np.float32)
    wanted = np.asarray(Image.fromarray(scores).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.allclose(resize_scores(scores[None], *size)[0], wanted, atol=1e-5)


def test_shrinking_averages():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    found = shrink_image(image, 2, 3)
    assert np.abs(found - image.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))).max() <= 0.5


def test_iou():
    one = np.array([True, True, False])
    assert mask_iou(one, one) == 1
    assert mask_iou(one, ~one) == 0
    assert mask_iou(one & ~one, one & ~one) == 0


def test_missing_pydensecrf_names_the_way_out(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pydensecrf"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"u2seg\[crf\].*bilateral"):
        DenseCRFRefiner()
