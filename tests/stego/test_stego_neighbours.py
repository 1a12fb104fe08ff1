"""Nearest neighbours beside brute force."""

import numpy as np
import pytest

from u2seg.errors import UsageError
from u2seg.stego.crops import nearest


def vectors(count, dim=6, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def brute_force(X, k):
    found = []
    for i in range(len(X)):
        others = sorted((j for j in range(len(X)) if j != i), key=lambda j: -float(X[i] @ X[j]))
        found.append(others[:k])
    return np.array(found)


def test_neighbours_are_those_of_brute_force():
    X = vectors(40)
    found = nearest(X, 5)
    assert found.dtype == np.int32
    assert np.array_equal(found, brute_force(X, 5))


def test_a_crop_is_not_its_own_neighbour_even_among_copies():
    X = np.repeat(vectors(4), 3, axis=0)
    found = nearest(X, 2)
    assert (found != np.arange(12)[:, None]).all()
    assert (found // 3 == np.arange(12)[:, None] // 3).all()


def test_too_few_crops_are_told():
    with pytest.raises(UsageError, match="7 crops are too few for 7 neighbours"):
        nearest(vectors(7), 7)
