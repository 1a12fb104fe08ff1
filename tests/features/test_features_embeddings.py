"""One vector per mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from u2seg.errors import DataError, UsageError
from u2seg.plugins.checks import sample_features, sample_image
from u2seg.pseudo.embeddings import crop_embeddings, crop_image, mask_embeddings, mean_embeddings


class Colours:
    """An extractor whose features are the colours of the image."""

    dim, stride = 3, 1

    def extract(self, images):
        return [image.transpose(2, 0, 1).astype(np.float32) for image in images]


class ColoursWithEmbed(Colours):
    def embed(self, images):
        return np.array([image[0, 0] for image in images], np.float32).reshape(len(images), 3)


def slow_mean(features, mask):
    """Every pixel split into 12 x 12 points, each looking up its cell."""
    h, w = features.shape[1:]
    fine = np.kron(mask, np.ones((12, 12), bool))
    rows = (np.arange(fine.shape[0]) * h) // fine.shape[0]
    columns = (np.arange(fine.shape[1]) * w) // fine.shape[1]
    mean = features.astype(np.float64)[:, rows][:, :, columns][:, fine].mean(axis=1)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("size", [(24, 36), (4, 6), (2, 3), (10, 9)])
def test_mean_weighs_cells_by_area(size):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 4, 6)).astype(np.float32)
    masks = rng.random((7, *size)) < 0.3
    masks[:, 0, 0] = True
    found = mean_embeddings(features, masks)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [slow_mean(features, mask) for mask in masks], atol=1e-5)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6))
def test_one_pixel_has_the_vector_of_where_it_lies(height, width, place):
    features = sample_features(4, 6, 6)
    mask = np.zeros((1, height, width), bool)
    mask.ravel()[place % mask.size] = True
    found = mean_embeddings(features, mask)[0]
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_the_whole_image_has_the_mean():
    features = sample_features(4, 5, 7)
    found = mean_embeddings(features, np.ones((1, 33, 41), bool))[0]
    mean = features.mean(axis=(1, 2))
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "crop", "both"])
def test_no_masks_and_empty_masks(kind):
    image, features = sample_image(20, 30), sample_features(3, 5, 5)
    for extractor in (Colours(), ColoursWithEmbed()):
        found = mask_embeddings(kind, extractor, image, features, np.zeros((0, 20, 30), bool), 8)
        assert found.shape == (0, 6 if kind == "both" else 3)
        assert found.dtype == np.float32
        with pytest.raises(DataError, match="empty mask"):
            mask_embeddings(kind, extractor, image, features, np.zeros((1, 20, 30), bool), 8)


def test_both_is_the_two_side_by_side():
    image, features = sample_image(20, 30), sample_features(3, 5, 5)
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 3:9, 4:8] = masks[1, 10:, :] = True
    parts = [mask_embeddings(kind, Colours(), image, features, masks, 8) for kind in ("mean", "crop")]
    both = mask_embeddings("both", Colours(), image, features, masks, 8)
    np.testing.assert_allclose(both, np.concatenate(parts, axis=1) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    with pytest.raises(UsageError, match="Did you mean 'both'"):
        mask_embeddings("bot", Colours(), image, features, masks, 8)


def test_crops_use_embed_where_there_is_one():
    image = sample_image(20, 30)
    mask = np.ones((1, 20, 30), bool)
    options = {"margin": 0.0, "box": "tight"}
    plain, own = (crop_embeddings(e, image, mask, 30, **options)[0] for e in (Colours(), ColoursWithEmbed()))
    assert not np.allclose(plain, own)
    mean = crop_image(image, mask[0], 30, 0.0, False, False).mean((0, 1))
    np.testing.assert_allclose(plain, mean / np.linalg.norm(mean), atol=1e-5)


def test_crop_cuts_where_the_mask_is():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:40] = [200, 100, 50]
    mask = (image > 0).all(axis=2)
    assert (crop_image(image, mask, 10, 0.0, False, False) == [200, 100, 50]).all()
    wide = crop_image(image, mask, 20, 0.5, True, False)  # the box is 20 x 20 pixels
    np.testing.assert_array_equal(wide, image[5:25, 25:45])


def test_square_keeps_shapes_and_tight_stretches():
    image = np.zeros((40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[18:22, 10:50] = True
    image[mask] = 200
    square = crop_image(image, mask, 40, 0.0, True, False)[..., 0]
    assert (square > 100).sum() == pytest.approx(4 * 40, abs=20)
    assert (crop_image(image, mask, 40, 0.0, False, False) == 200).all()


def test_background_is_kept_or_filled_and_what_lies_beyond_is_filled():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (30, 30, 3)).astype(np.uint8)
    mask = np.zeros((30, 30), bool)
    mask[0:10, 0:10] = True
    mask[0, 0] = False
    colour = image.reshape(-1, 3).mean(0).round()
    kept = crop_image(image, mask, 20, 0.5, True, False)  # from -5 to 15
    np.testing.assert_array_equal(kept[5:, 5:], image[:15, :15])
    assert (kept[:5] == colour).all()
    assert (kept[:, :5] == colour).all()
    filled = crop_image(image, mask, 20, 0.5, True, True)
    assert (filled[5, 5] == colour).all()
    np.testing.assert_array_equal(filled[5:15, 6:15], image[:10, 1:10])
    assert (filled[15:] == colour).all()


def test_inputs_stay_as_they_were():
    image, features = sample_image(20, 30), sample_features(3, 5, 5)
    masks = np.ones((1, 20, 30), bool)
    copies = image.copy(), features.copy(), masks.copy()
    mask_embeddings("both", ColoursWithEmbed(), image, features, masks, 8)
    for before, after in zip(copies, (image, features, masks), strict=True):
        np.testing.assert_array_equal(before, after)
