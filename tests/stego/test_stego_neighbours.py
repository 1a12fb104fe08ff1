"""Nearest neighbours beside brute force."""

import importlib.util

import numpy as np
import pytest

from u2seg.data import stego_neighbours
from u2seg.data.stego_neighbours import cached_neighbours, nearest
from u2seg.errors import UsageError

HAS_FAISS = importlib.util.find_spec("faiss") is not None
METHODS = ["exact", pytest.param("faiss", marks=pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed"))]


def vectors(count, dim=6, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def brute_force(X, k):
    found = []
    for i in range(len(X)):
        others = sorted((j for j in range(len(X)) if j != i), key=lambda j: -float(X[i] @ X[j]))
        found.append(others[:k])
    return np.array(found)


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_are_those_of_brute_force(method, monkeypatch):
    # blocks smaller than the set, and not dividing it
    monkeypatch.setattr(stego_neighbours, "QUERIES", 7)
    monkeypatch.setattr(stego_neighbours, "CHUNK", 11)
    X = vectors(40)
    found = nearest(X, 5, method)
    assert found.dtype == np.int32
    assert np.array_equal(found, brute_force(X, 5))


@pytest.mark.parametrize("method", METHODS)
def test_a_crop_is_not_its_own_neighbour_even_among_copies(method):
    X = np.repeat(vectors(4), 3, axis=0)
    found = nearest(X, 2, method)
    assert (found != np.arange(12)[:, None]).all()
    assert (found // 3 == np.arange(12)[:, None] // 3).all()


@pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
def test_the_approximate_search_of_large_sets_finds_most(monkeypatch):
    monkeypatch.setattr(stego_neighbours, "APPROXIMATE_FROM", 100)
    monkeypatch.setattr(stego_neighbours, "PROBED_SHARE", 0.5)
    X = vectors(2000)
    found, exact = nearest(X, 5, "faiss"), nearest(X, 5, "exact")
    assert found.min() >= 0
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert recall > 0.8


def test_too_few_crops_are_told():
    with pytest.raises(UsageError, match="7 crops are too few for 7 neighbours"):
        nearest(vectors(7), 7)


def test_an_unknown_method_is_told():
    with pytest.raises(UsageError, match="auto, exact or faiss"):
        nearest(vectors(9), 2, "annoy")


def test_the_search_is_done_once(tmp_path, monkeypatch):
    X, usable = vectors(30), np.arange(0, 30, 2)
    first = cached_neighbours(tmp_path, X, usable, 3)
    assert first.max() < len(usable)
    monkeypatch.setattr(stego_neighbours, "nearest", lambda *_: pytest.fail("searched again"))
    assert np.array_equal(cached_neighbours(tmp_path, X, usable, 3), first)


def test_other_crops_are_searched_anew(tmp_path):
    X = vectors(30)
    cached_neighbours(tmp_path, X, np.arange(20), 3)
    assert len(cached_neighbours(tmp_path, X, np.arange(30), 3)) == 30
