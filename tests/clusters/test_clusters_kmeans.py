"""k-means: scikit-learn's result, seeds, threads, empty clusters, and errors in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from u2seg.errors import DataError, UsageError
from u2seg.pseudo import clusters
from u2seg.pseudo.clusters import KMeans, count_distinct, fill_empty, nearest_centre, unit_length


def embeddings(count=400, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def test_without_normalising_it_is_scikit_learns():
    from sklearn import cluster

    X = embeddings()
    ours = KMeans(n_clusters=7, random_state=3, normalise=False, n_init=2).fit(X)
    theirs = cluster.KMeans(7, random_state=3, n_init=2, max_iter=100).fit(X)
    assert np.allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-4)
    assert np.array_equal(ours.predict(X), theirs.predict(X))


def test_normalising_forgets_length():
    X = embeddings()
    scaled = X * np.random.default_rng(1).uniform(0.1, 10, (len(X), 1)).astype(np.float32)
    one, other = (KMeans(n_clusters=5, normalise=True).fit(x).predict(x) for x in (X, scaled))
    assert (one == other).mean() > 0.99


@pytest.mark.parametrize("make", [KMeans, lambda **args: KMeans(mini_batch=True, **args)])
def test_same_seed_same_ids_whatever_the_threads(make):
    X = embeddings(3000, 32)
    found = []
    for threads in (1, 2, 2):
        with threadpool_limits(limits=threads):
            found.append(make(n_clusters=20, random_state=5).fit(X).cluster_centers_)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], found[2])
    assert not np.array_equal(found[0], make(n_clusters=20, random_state=6).fit(X).cluster_centers_)


def test_every_vector_its_own_cluster():
    X = embeddings(12)
    assert sorted(KMeans(n_clusters=12, random_state=0).fit(X).predict(X)) == list(range(12))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 9))
def test_no_cluster_is_empty(distinct, copies, zeros, normalise, mini_batch, seed):
    """Many duplicates, and as many clusters as there are distinct vectors."""
    rng = np.random.default_rng(seed)
    points = rng.integers(-3, 4, (distinct, 3)).astype(np.float32)
    X = np.concatenate([points[rng.integers(0, distinct, copies)], points, np.zeros((zeros, 3), np.float32)])
    seen = len(np.unique((unit_length(X) if normalise else X) + 0.0, axis=0))
    model = KMeans(n_clusters=seen, random_state=seed, normalise=normalise, mini_batch=mini_batch, n_init=1).fit(X)
    assert set(model.predict(X)) == set(range(seen))
    with pytest.raises(UsageError, match=rf"{seen + 1} clusters .* only {len(X)} masks with {seen} distinct"):
        KMeans(n_clusters=seen + 1, normalise=normalise).fit(X)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 99))
def test_fill_empty_from_the_worst_start(count, more, seed):
    """All centres on one spot: only repair can fill them."""
    X = embeddings(count + more, 4, seed)
    filled = fill_empty(X, np.zeros((count, 4), np.float32))
    ids, _ = nearest_centre(X, filled)
    assert set(ids) == set(range(count))


def test_fill_empty_leaves_good_centres_alone():
    X = embeddings(50)
    centres = X[:5].copy()
    assert np.array_equal(fill_empty(X, centres), centres)


@pytest.mark.parametrize("trial", [20, 10_000])
def test_bounds_on_distances_change_no_centre(monkeypatch, trial):
    monkeypatch.setattr(clusters, "TRIAL", trial)
    X = np.random.default_rng(0).normal(size=(600, 12)).astype(np.float32)
    with_bounds = clusters.learn_centres(X, 7, seed=0, n_init=2, max_iter=50)
    monkeypatch.setattr(clusters, "MOST_BOUNDS", 0)
    without = clusters.learn_centres(X, 7, seed=0, n_init=2, max_iter=50)
    assert np.allclose(with_bounds, without, atol=1e-5)


def test_nearest_centre_is_the_obvious_one(monkeypatch):
    monkeypatch.setattr("u2seg.pseudo.clusters.CHUNK", 7)
    X, centres = embeddings(50), embeddings(9, seed=1)
    distances = ((X[:, None].astype(float) - centres[None]) ** 2).sum(axis=-1)
    ids, found = nearest_centre(X, centres)
    assert np.array_equal(ids, distances.argmin(axis=1))
    assert np.allclose(found, distances.min(axis=1))


def test_minus_zero_is_zero():
    assert count_distinct(np.array([[0.0], [-0.0]], np.float32), 5) == 1


def test_more_clusters_than_masks():
    with pytest.raises(UsageError, match=r"300 clusters.*only 20 masks.*photos.*U2SEG.NUM_THINGS"):
        KMeans(n_clusters=300).fit(embeddings(20))


@pytest.mark.parametrize("bad", [np.full((9, 3), np.nan), np.zeros(9), np.zeros((3, 3, 3))])
def test_what_is_no_matrix_of_numbers_is_refused(bad):
    with pytest.raises(DataError, match="finite"):
        KMeans(n_clusters=2).fit(bad)


@pytest.mark.parametrize("args", [{"n_clusters": 0}, {"n_clusters": "8"}, {"n_clusters": 2, "mini_batch": "yes"}])
def test_wrong_arguments_are_named(args):
    with pytest.raises(UsageError, match=r"NUM_THINGS|mini_batch"):
        KMeans(**args)


def test_saved_centres_give_new_photos_the_same_ids():
    X, new = embeddings(), embeddings(50, seed=9)
    model = KMeans(n_clusters=6, random_state=1).fit(X)
    other = KMeans(n_clusters=6, random_state=2, normalise=False)
    assert np.array_equal(other.load_state(model.state()).predict(new), model.predict(new))
    with pytest.raises(UsageError, match=r"6.*7"):
        KMeans(n_clusters=7).load_state(model.state())
    with pytest.raises(DataError, match=r"8 channels.*16"):
        model.predict(new[:, :8])


def test_auto_takes_mini_batches_when_the_set_is_large(monkeypatch):
    from sklearn import cluster

    used = []
    for name in ("KMeans", "MiniBatchKMeans"):
        real = getattr(cluster, name)
        monkeypatch.setattr(cluster, name, lambda *a, real=real, name=name, **k: used.append(name) or real(*a, **k))
    KMeans(n_clusters=3).fit(embeddings())
    monkeypatch.setattr(clusters, "MINI_BATCH_WORK", 1000)
    KMeans(n_clusters=3).fit(embeddings())
    assert used == ["KMeans", "MiniBatchKMeans"]
