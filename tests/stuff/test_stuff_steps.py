"""The steps of stuff by k-means, each against the obvious way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.errors import DataError
from u2seg.pseudo import stuff


def grids(count, seed=0, dim=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(dim, rng.integers(1, 9), rng.integers(1, 9))).astype(np.float32) for _ in range(count)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 80), st.integers(0, 99))
def test_the_sample_is_of_the_patches_and_no_larger(count, most, seed):
    features = grids(count, seed)
    every = np.concatenate([f.reshape(3, -1).T for f in features])
    found = stuff.sample_patches(iter(features), most, seed)
    assert len(found) == min(most, len(every))
    assert {row.tobytes() for row in found} <= {row.tobytes() for row in every}
    assert len({row.tobytes() for row in found}) == len(found), "none twice"


def test_early_and_late_photos_are_drawn_alike():
    features = [np.full((1, 10, 10), index, np.float32) for index in range(40)]
    drawn = np.concatenate([stuff.sample_patches(features, 200, seed).ravel() for seed in range(30)])
    counts = np.bincount(drawn.astype(int), minlength=40)
    assert counts.min() > 100  # 150 expected of each
    assert counts.max() < 200


def test_features_of_different_widths_are_refused():
    with pytest.raises(DataError, match=r"4 channels.*3"):
        stuff.sample_patches([*grids(1), *grids(1, dim=4)], 10, 0)


def test_whitened_axes_give_unit_covariance():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(20_000, 6)) @ rng.normal(size=(6, 6)) + 5).astype(np.float32)
    mean, axes = stuff.principal_axes(X, 4, whiten=1)
    covariance = np.cov(((X - mean) @ axes).T)
    assert np.allclose(covariance, np.eye(4), atol=0.02)
    mean, axes = stuff.principal_axes(X, 4, whiten=0)
    assert np.allclose(axes.T @ axes, np.eye(4), atol=1e-5)
    assert (np.diff(np.diag(np.cov(((X - mean) @ axes).T))) < 0).all(), "largest first"


@pytest.mark.parametrize("normalise", [False, True])
def test_without_whitening_all_components_are_left_as_they_are_and_distances_are_those_on_axes(normalise):
    X = grids(9, dim=6)[0].reshape(6, -1).T + 3
    mean, axes = stuff.principal_axes(X, 0, whiten=0)
    rotation = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2].T
    left, rotated = (stuff.project(X, mean, each, normalise) for each in (axes, rotation))
    assert left.dtype == np.float32
    assert np.allclose(left @ left.T, rotated @ rotated.T, atol=1e-4)


def test_scores_are_a_softmax_of_cosines():
    rng = np.random.default_rng(0)
    vectors, centres = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    wanted = np.empty((5, 3))
    for i, v in enumerate(vectors):
        cosines = np.array([v @ c / np.linalg.norm(v) / np.linalg.norm(c) for c in centres])
        wanted[i] = np.exp(cosines / 0.1) / np.exp(cosines / 0.1).sum()
    assert np.allclose(stuff.class_scores(vectors, centres, 0.1, cosine=True), wanted, atol=1e-5)


def test_without_cosine_the_nearest_centre_is_likeliest():
    rng = np.random.default_rng(0)
    vectors, centres = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    nearest = ((vectors[:, None] - centres[None]) ** 2).sum(axis=-1).argmin(axis=1)
    assert np.array_equal(stuff.class_scores(vectors, centres, 0.1, cosine=False).argmax(axis=1), nearest)


def test_smoothing_is_a_mean_over_a_square():
    scores = np.random.default_rng(0).random((2, 7, 8)).astype(np.float32)
    padded = np.pad(scores, ((0, 0), (1, 1), (1, 1)), mode="edge")
    wanted = sum(padded[:, i : i + 7, j : j + 8] for i in range(3) for j in range(3)) / 9
    assert np.allclose(stuff.smooth(scores, 3), wanted, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.floats(0, 0.99), st.integers(0, 99))
def test_dropping_keeps_cells_labelled_and_the_largest_class(classes, share, seed):
    scores = np.random.default_rng(seed).random((classes, 5, 6)).astype(np.float32)
    before = np.bincount(scores.argmax(axis=0).ravel(), minlength=classes)
    found = stuff.drop_small(scores, share)
    assert np.allclose(found.sum(axis=0), 1, atol=1e-5)
    assert found[before.argmax()].any()
    dropped = before / 30 < min(share, before.max() / 30)
    assert not found[dropped].any()
