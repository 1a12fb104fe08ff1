"""Stuff by k-means: contract, recovery of known regions, seeds, errors in words."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from u2seg.errors import DataError, UsageError
from u2seg.plugins import checks
from u2seg.pseudo.stuff import KMeansStuff

IMAGE = np.zeros((48, 64, 3), np.uint8)


def scenes(count=6, dim=20, classes=4, seed=0):
    """Features of photos in two bands, and the band's class on the grid, int (count, 12, 16)."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(classes, dim))
    truth = np.empty((count, 12, 16), int)
    for index in range(count):
        truth[index, :6], truth[index, 6:] = index % classes, (index + 1) % classes
    features = directions[truth] + 0.3 * rng.normal(size=(*truth.shape, dim))
    return [np.ascontiguousarray(f.transpose(2, 0, 1), np.float32) for f in features], truth


@pytest.mark.parametrize(
    "args", [{}, {"pca": 0}, {"pca": 0, "whiten": 0, "normalise": False}, {"blur": 1, "min_share": 0}]
)
def test_contract(args):
    segmenter = KMeansStuff(num_classes=3, random_state=0, **args)
    checks.check_stuff_segmenter(segmenter)
    checks.check_picklable(segmenter)


@pytest.mark.parametrize("args", [{}, {"normalise": False}, {"pca": 3}, {"pca": 0}])
def test_bands_are_found_again_in_other_photos(args):
    features, _ = scenes()
    others, truth = scenes(seed=1)
    segmenter = KMeansStuff(num_classes=4, blur=3, **args).fit(features)
    found = np.stack([segmenter.segment(IMAGE, f).argmax(axis=0) for f in others])
    table = np.zeros((4, 4), int)
    np.add.at(table, (truth.ravel(), found.ravel()), 1)
    assert sorted(table.argmax(axis=1)) == [0, 1, 2, 3]
    assert table.max(axis=1).sum() / table.sum() > 0.95


def test_small_regions_go_to_the_likeliest_of_the_others():
    features, _ = scenes()
    patch = scenes(seed=1)[0][2]
    patch[:, 0, :3] = features[0][:, 0, :3]  # three cells of another class, under 5 % of the grid
    kept = KMeansStuff(num_classes=4, blur=1, min_share=0).fit(features)
    dropped = KMeansStuff(num_classes=4, blur=1, min_share=0.05).fit(features)
    few = np.bincount(kept.segment(IMAGE, patch).argmax(axis=0).ravel(), minlength=4)
    most = np.bincount(dropped.segment(IMAGE, patch).argmax(axis=0).ravel(), minlength=4)
    assert ((few > 0) & (few < 0.05 * 192)).any()
    assert not ((most > 0) & (most < 0.05 * 192)).any()
    assert most.sum() == 192
    probabilities = dropped.segment(IMAGE, patch)
    assert (probabilities[most == 0] == 0).all()
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-5)


def test_same_seed_same_state_whatever_the_threads():
    features, _ = scenes()
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(KMeansStuff(num_classes=5, random_state=3).fit(iter(features)).state())
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
    other = KMeansStuff(num_classes=5, random_state=4).fit(features).state()
    assert not np.array_equal(other["centres"], found[0]["centres"])


def test_a_saved_state_carries_its_own_projection():
    features, _ = scenes()
    fitted = KMeansStuff(num_classes=4, normalise=False, pca=5).fit(features)
    loaded = KMeansStuff(num_classes=4).load_state(fitted.state())
    assert np.array_equal(loaded.segment(IMAGE, features[0]).shape, (4, 12, 16))
    assert loaded.normalise is False
    with pytest.raises(UsageError, match=r"4.*NUM_STUFF asks for 5"):
        KMeansStuff(num_classes=5).load_state(fitted.state())


def test_constant_features_and_one_class():
    flat = [np.ones((8, 4, 4), np.float32)]
    assert (KMeansStuff(num_classes=1).fit(flat).segment(IMAGE, flat[0]) == 1).all()
    with pytest.raises(UsageError, match="alike"):
        KMeansStuff(num_classes=2).fit(flat)


def test_more_classes_than_patches():
    with pytest.raises(UsageError, match=r"100 stuff classes.*16 patches.*NUM_STUFF"):
        KMeansStuff(num_classes=100).fit([np.zeros((8, 4, 4), np.float32)])
    with pytest.raises(UsageError, match="0 patches"):
        KMeansStuff(num_classes=2).fit([])


def test_features_of_another_width():
    features, _ = scenes()
    fitted = KMeansStuff(num_classes=4).fit(features)
    with pytest.raises(DataError, match=r"7 channels.*20"):
        fitted.segment(IMAGE, features[0][:7])


@pytest.mark.parametrize(
    "args",
    [{"num_classes": 0}, {"num_classes": 255}, {"blur": 4}, {"min_share": 1.1}, {"pca": -1}, {"temperature": 0}],
)
def test_wrong_arguments_are_named(args):
    with pytest.raises(UsageError, match=r"NUM_STUFF|blur|min_share|pca|temperature"):
        KMeansStuff(**{"num_classes": 5, **args})
