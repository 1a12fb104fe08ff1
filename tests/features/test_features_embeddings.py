"""One vector per mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from u2seg.plugins.checks import sample_features, sample_image
from u2seg.pseudo.embeddings import (
    BEST,
    choose_apart,
    cluster_ids,
    crop_embeddings,
    crop_image,
    embed_masks,
    mean_colour,
    mean_embeddings,
)
from u2seg.structures import MaskSet


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


@pytest.mark.parametrize("kind", ["mean", "crop"])
@pytest.mark.parametrize("extractor", [Colours(), ColoursWithEmbed()])
def test_no_masks_have_no_vectors(kind, extractor):
    image, features = sample_image(20, 30), sample_features(3, 5, 5)
    vectors = embed_masks(kind, extractor, image, features, MaskSet.empty(20, 30), 8, min_score=0.0).vectors
    assert vectors.shape == (0, 3)
    assert vectors.dtype == np.float32


def test_crops_use_embed_where_there_is_one():
    image, mask = sample_image(20, 30), np.ones((1, 20, 30), bool)
    plain, special = (crop_embeddings(extractor, image, mask, 30)[0] for extractor in (Colours(), ColoursWithEmbed()))
    assert not np.allclose(plain, special)
    mean = crop_image(image, mask[0], 30, mean_colour(image)).mean((0, 1))
    np.testing.assert_allclose(plain, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_crop_is_square_with_a_margin_and_filled_beside_the_mask_and_beyond_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[0:10, 5:15] = True
    mask[0, 5] = False
    colour = image.reshape(-1, 3).mean(0).round()
    crop = crop_image(image, mask, 12, mean_colour(image))  # rows -1 to 11, columns 4 to 16
    np.testing.assert_array_equal(crop[2:11, 1:11], image[1:10, 5:15])
    for filled in (crop[0], crop[11:], crop[:, :1], crop[:, 11:], crop[1:2, 1:2]):
        assert (filled == colour).all()
    wide = np.zeros((40, 40), bool)
    wide[18:22, 0:40] = True
    image[wide] = 200
    assert (crop_image(image, wide, 48, mean_colour(image))[..., 0] > 190).sum() == pytest.approx(4 * 40, abs=30)


def test_inputs_stay_as_they_were():
    image, features = sample_image(20, 30), sample_features(3, 5, 5)
    masks = np.ones((1, 20, 30), bool)
    copies = image.copy(), features.copy(), masks.copy()
    for kind in ("mean", "crop"):
        things = MaskSet(masks, np.ones(1, np.float32))
        embed_masks(kind, ColoursWithEmbed(), image, features, things, 8, min_score=0.0)
    for before, after in zip(copies, (image, features, masks), strict=True):
        np.testing.assert_array_equal(before, after)


class MaskNamer:
    """A clusterer whose cluster is the first channel of a vector."""

    def predict(self, vectors):
        return np.round(vectors[:, 0]).astype(np.int64)


def test_only_sure_and_best_masks_have_a_crop_and_the_others_the_most_similar_means():
    image = np.zeros((16, 16, 3), np.uint8)
    features = np.zeros((2, 4, 4), np.float32)
    features[0, :2], features[1, 2:] = 1, 1
    masks = np.zeros((6, 16, 16), bool)
    masks[:3, :8], masks[3:, 8:] = True, True
    scores = np.float32([0.9, 0.1, 0.2, 0.8, 0.3, 0.7])

    class Extractor:
        dim = 2

        def embed(self, crops):
            return np.eye(2, dtype=np.float32)[[0] * len(crops)]

    vectors = embed_masks("crop", Extractor(), image, features, MaskSet(masks, scores), 8, min_score=0.5)
    assert vectors.embedded.tolist() == [0, 3, 5]
    assert vectors.vectors.shape == (3, 2)
    assert np.allclose(vectors.means, [[1, 0]] * 3 + [[0, 1]] * 3)
    assert cluster_ids(vectors, MaskNamer(), np.float32([[0, 1], [1, 0]])).tolist() == [1, 1, 1, 1, 0, 1]
    few = embed_masks("crop", Extractor(), image, features, MaskSet(masks, scores), 8, min_score=0.95)
    assert few.embedded.tolist() == [0, 3, 5]
    every = embed_masks("crop", Extractor(), image, features, MaskSet(masks, scores), 8, min_score=0.0)
    assert every.embedded.tolist() == list(range(6))
    assert every.means.shape == (6, 0)


def test_of_nested_masks_only_the_better_one_is_learnt_from():
    masks = np.zeros((5, 10, 10), bool)
    masks[0, :8, :8] = masks[1, 2:6, 2:6] = True  # the second lies inside the first
    masks[2, 9:, :5] = masks[3, :6, 8:] = masks[4, :, 9:] = True  # the last two share 6 of the smaller one's 10
    scores = np.float32([0.5, 0.9, 0.3, 0.8, 0.7])
    things = MaskSet(masks, scores)
    assert choose_apart(things, 0.0, 0.5).tolist() == [1, 2, 3]
    assert choose_apart(things, 0.0, 0.6).tolist() == [1, 2, 3, 4]
    assert choose_apart(things, 0.0, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert choose_apart(things, 0.6, 1.0).tolist() == [1, 3, 4]
    assert choose_apart(MaskSet.empty(4, 4), 0.0, 0.5).tolist() == []


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_chosen_masks_lie_apart_and_each_other_sure_one_meets_a_better(seed, min_score, max_overlap):
    rng = np.random.default_rng(seed)
    masks = rng.random((int(rng.integers(0, 9)), 6, 6)) < rng.random()
    masks = masks[masks.any(axis=(1, 2))]
    things = MaskSet(masks, rng.random(len(masks)).astype(np.float32))
    chosen = choose_apart(things, min_score, max_overlap).tolist()

    def meet(first, second):
        smaller = min(masks[first].sum(), masks[second].sum())
        return (masks[first] & masks[second]).sum() > max_overlap * smaller

    assert chosen == sorted(set(chosen))
    for index in range(len(masks)):
        better = [other for other in chosen if things.scores[other] > things.scores[index]]
        if index in chosen:
            assert not any(meet(index, other) for other in better)
            assert things.scores[index] >= min_score or len(better) < BEST
        else:
            unsure = things.scores[index] < min_score and len(better) >= BEST
            assert unsure or any(meet(index, other) for other in better)


def test_a_mask_inside_a_better_one_has_no_crop_but_its_means():
    image, features = sample_image(10, 10), sample_features(3, 5, 5)
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:6, 2:6] = masks[1, :8, :8] = True
    things = MaskSet(masks, np.float32([0.9, 0.8]))
    vectors = embed_masks("crop", ColoursWithEmbed(), image, features, things, 8, min_score=0.0, max_overlap=0.5)
    assert vectors.embedded.tolist() == [0]
    assert vectors.means.shape == (2, 3)
