import itertools

import numpy as np
import pytest
from evaluation_data import compare, fit_itself, permuted, random_pseudo, random_truth
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.errors import UsageError
from u2seg.evaluation.matching import (
    DEFAULT_POLICIES,
    MANY_TO_ONE,
    ONE_TO_ONE,
    ONE_TO_ONE_THEN_MAJORITY,
    match_clusters,
    match_kinds,
)

TABLE = np.array([[5, 9, 0], [4, 8, 0], [0, 3, 0], [0, 0, 0]])


def test_policies_on_a_table_by_hand():
    assert match_clusters(TABLE, MANY_TO_ONE).tolist() == [1, 1, 1, -1]
    one = match_clusters(TABLE, ONE_TO_ONE).tolist()
    assert sorted(c for c in one if c >= 0) == [0, 1]
    assert sum(TABLE[k, c] for k, c in enumerate(one) if c >= 0) == 13
    both = match_clusters(TABLE, ONE_TO_ONE_THEN_MAJORITY)
    assert [b == o or (o == -1 and b == 1) for b, o in zip(both[:3], one[:3], strict=True)] == [True] * 3
    assert both[3] == -1


def test_ties_go_to_the_first_class_and_stay_there():
    table = np.full((4, 3), 7)
    assert match_clusters(table, MANY_TO_ONE).tolist() == [0, 0, 0, 0]
    for policy in DEFAULT_POLICIES:
        assert np.array_equal(match_clusters(table, policy), match_clusters(table.copy(), policy))


def test_no_clusters_or_no_classes():
    for policy in DEFAULT_POLICIES:
        assert match_clusters(np.zeros((0, 3), np.int64), policy).tolist() == []
        assert match_clusters(np.zeros((2, 0), np.int64), policy).tolist() == [-1, -1]


def test_unknown_policy_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'one_to_one'"):
        match_clusters(TABLE, "one_to_on")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
def test_one_to_one_is_the_best_of_all_assignments(seed, clusters, classes):
    table = np.random.default_rng(seed).integers(0, 5, (clusters, classes))
    found = match_clusters(table, ONE_TO_ONE)
    used = found[found >= 0]
    assert len(set(used.tolist())) == len(used)
    small, large = sorted(table.shape)
    wide = table if clusters <= classes else table.T
    best = max(sum(wide[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(large), small))
    assert sum(table[k, c] for k, c in enumerate(found) if c >= 0) == best


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_matching_follows_a_permutation_of_cluster_ids(seed):
    rng = np.random.default_rng(seed)
    table = rng.permutation(7 * 4).reshape(7, 4) ** 2 + rng.integers(0, 9, (7, 4)) * 1000
    order = rng.permutation(7)
    for policy in DEFAULT_POLICIES:
        found, again = match_clusters(table, policy), match_clusters(table[order], policy)
        total = [sum(t[k, c] for k, c in enumerate(f) if c >= 0) for t, f in ((table, found), (table[order], again))]
        assert total[0] == total[1]
        if policy == MANY_TO_ONE:
            assert np.array_equal(found[order], again)


def test_things_never_get_a_stuff_class():
    table = np.array([[1, 100], [100, 1]])
    flags = np.array([True, False])
    for policy in DEFAULT_POLICIES:
        assert match_kinds(table, flags, flags, policy).tolist() == [0, 1]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_permuted_truth_scores_100_under_every_policy(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    comparison = compare(truth, permuted(truth, rng), stuff="category")
    for policy in DEFAULT_POLICIES:
        figures = comparison.figures(fit_itself(comparison).classes(policy))
        assert all(np.isnan(v) or v == pytest.approx(100, abs=1e-9) for v in figures.values()), (policy, figures)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_majority_has_the_best_pixel_accuracy_and_perfect_classes_a_better_one(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    comparison = compare(truth, random_pseudo(rng, truth))
    fit = fit_itself(comparison)
    many, one, both = (comparison.figures(fit.classes(policy))["pixel_accuracy"] for policy in DEFAULT_POLICIES)
    best = comparison.figures(comparison.best_classes())["pixel_accuracy"]
    assert one <= both + 1e-9 <= many + 2e-9 <= best + 3e-9
