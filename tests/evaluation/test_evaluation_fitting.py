import json

import numpy as np
import pytest
from evaluation_data import Labels, compare, fit_itself, permuted, random_pseudo, random_truth

from u2seg.errors import DataError, UsageError
from u2seg.evaluation.fitting import Fit, is_close, load_matching, save_matching, score_policy
from u2seg.evaluation.matching import (
    DEFAULT_POLICIES,
    MANY_TO_ONE,
    ONE_TO_ONE,
    U2SEG_PAPER,
    stuff_votes,
    thing_votes,
)


@pytest.fixture
def noisy():
    rng = np.random.default_rng(11)
    truth = random_truth(rng, photos=20)
    return truth, random_pseudo(rng, truth)


def subset(labels, chosen):
    part = Labels(labels.categories)
    for index in chosen:
        part.maps.append(labels.maps[index])
        part.infos.append(labels.infos[index])
        part.names.append(labels.names[index])
    return part


def test_shuffling_keeps_the_ids_within_things_and_stuff(noisy):
    comparison = compare(*noisy)
    shuffled = comparison.shuffled(0)
    for kind in (True, False):
        own = comparison.table.pred["isthing"] == kind
        assert sorted(shuffled[own]) == sorted(comparison.cluster[own])
        assert not np.array_equal(shuffled[own], comparison.cluster[own])
    assert np.array_equal(shuffled, comparison.shuffled(0))
    assert not np.array_equal(shuffled, comparison.shuffled(1))


def test_control_is_far_below_permuted_truth_and_near_random_clusters(noisy):
    truth, pseudo = noisy
    perfect = compare(truth, permuted(truth, np.random.default_rng(0)), stuff="category")
    good = score_policy(fit_itself(perfect), MANY_TO_ONE, 5)
    assert good["figures"]["PQ"] == pytest.approx(100)
    assert good["control_mean"]["PQ"] < 60
    assert good["close_to_chance"] == []
    by_chance = score_policy(fit_itself(compare(truth, pseudo)), MANY_TO_ONE, 5)
    assert "PQ" in by_chance["close_to_chance"]


def test_no_seeds_no_control(noisy):
    scores = score_policy(fit_itself(compare(*noisy)), ONE_TO_ONE, 0)
    assert scores["control_mean"] == {}
    assert scores["close_to_chance"] == []


def test_close_means_two_thirds_or_two_deviations():
    assert is_close(6.9, 6.3, 0.1)
    assert is_close(10.0, 4.0, 3.1)
    assert not is_close(10.0, 4.0, 1.0)
    assert not is_close(np.nan, 1.0, 1.0)


def test_fold_fit_equals_fitting_each_fold_by_hand(noisy):
    truth, pseudo = noisy
    comparison = compare(truth, pseudo)
    fold = np.random.default_rng(0).permutation(20) % 2
    for policy in DEFAULT_POLICIES:
        expected = np.full(len(comparison.cluster), -9)
        for held_out in (0, 1):
            others = np.flatnonzero(fold != held_out)
            learnt = compare(subset(truth, others), subset(pseudo, others))
            of_cluster = dict(
                zip(learnt.table.pred["category"].tolist(), fit_itself(learnt).classes(policy).tolist(), strict=True)
            )
            own = fold[comparison.table.pred["image"]] == held_out
            expected[own] = [of_cluster.get(c, -1) for c in comparison.table.pred["category"][own].tolist()]
        assert np.array_equal(Fit(comparison, folds=2).classes(policy), expected)


def test_folds_out_of_range_are_refused(noisy):
    for folds in (1, 21, -3):
        with pytest.raises(UsageError, match=r"--folds \(TEST.MATCHING.FOLDS\) takes 2"):
            Fit(compare(*noisy), folds=folds)


def test_fit_on_itself_is_the_self_fit_and_other_clusters_are_refused(noisy):
    truth, pseudo = noisy
    comparison = compare(truth, pseudo)
    other = Fit(comparison, fitted=compare(truth, pseudo))
    for policy in (*DEFAULT_POLICIES, U2SEG_PAPER):
        assert np.array_equal(other.classes(policy), fit_itself(comparison).classes(policy))
        assert np.array_equal(other.classes(policy, 3), fit_itself(comparison).classes(policy, 3))
    fewer = compare(truth, random_pseudo(np.random.default_rng(0), truth, num_things=3))
    with pytest.raises(DataError, match="the 7 clusters of the set to fit on are not the 9 of the one to score"):
        Fit(comparison, fitted=fewer)


def test_saved_matching_comes_back(noisy, tmp_path):
    comparison = compare(*noisy)
    policies = (*DEFAULT_POLICIES, U2SEG_PAPER)
    save_matching(tmp_path / "m.json", comparison, policies, "here")
    saved = Fit(comparison, "m.json", saved=load_matching(tmp_path / "m.json", comparison))
    for policy in policies:
        assert np.array_equal(saved.classes(policy), fit_itself(comparison).classes(policy))
    counts = json.loads((tmp_path / "m.json").read_text())["policies"][MANY_TO_ONE]["counts"]
    assert sum(entry[2] for entry in counts) == comparison.counts(MANY_TO_ONE, comparison.cluster).sum()
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_matchings_that_do_not_fit_are_refused(noisy, tmp_path):
    truth, pseudo = noisy
    comparison = compare(truth, pseudo)
    file = tmp_path / "m.json"
    save_matching(file, comparison, [MANY_TO_ONE], "here")
    with pytest.raises(UsageError, match=r"no matching policy in m.json named 'one_to_one'.* There are: many_to_one"):
        Fit(comparison, "m.json", saved=load_matching(file, comparison)).classes(ONE_TO_ONE)
    with pytest.raises(DataError, match="fitted to other classes"):
        load_matching(file, compare(truth, pseudo, stuff="category"))
    with pytest.raises(DataError, match="clusters that are not the"):
        load_matching(file, compare(truth, random_pseudo(np.random.default_rng(0), truth, num_things=3)))
    content = json.loads(file.read_text())
    del content["classes"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no whole matching"):
        load_matching(file, comparison)
    file.write_text("{}")
    with pytest.raises(DataError, match="no matching saved"):
        load_matching(file, comparison)


def test_votes_equal_loops_over_segments(noisy):
    truth, pseudo = noisy
    comparison = compare(truth, pseudo)
    table, gt_class = comparison.table, comparison.gt_class
    voters = np.flatnonzero(table.pred["isthing"])
    voter, of_thing = thing_votes(table, gt_class, table.pred[voters], 0.5, 0.3)
    stuff = stuff_votes(table, gt_class, 0.15)
    expected_things, expected_stuff, start = [], [], 0
    kinds = {entry["id"]: entry["isthing"] for entry in (*truth.categories,)}
    clusters = {entry["id"]: entry["isthing"] for entry in pseudo.categories}
    for gt_ids, ids, gt_info, info in zip(truth.maps, pseudo.maps, truth.infos, pseudo.infos, strict=True):
        regions = {}
        for segment in gt_info:
            if not kinds[segment["category_id"]]:
                label = comparison.taxonomy.class_of[segment["category_id"]]
                regions[label] = regions.get(label, False) | (gt_ids == segment["id"])
        for number, found in enumerate(info, start=start):
            if not clusters[found["category_id"]]:
                mask = ids == found["id"]
                expected_stuff += [
                    (number, c) for c, m in regions.items() if (m & mask).sum() / (m | mask).sum() > 0.15
                ]
                continue
            for segment in gt_info:
                if found["score"] < 0.3 or not kinds[segment["category_id"]]:
                    continue
                (a, b, c, d), (e, f, g, h) = segment["bbox"], found["bbox"]
                shared = max(0, min(a + c, e + g) - max(a, e)) * max(0, min(b + d, f + h) - max(b, f))
                if shared / (c * d + g * h - shared) > 0.5:
                    expected_things.append((number, comparison.taxonomy.class_of[segment["category_id"]]))
        start += len(info)
    assert len(expected_things) > 5
    assert len(expected_stuff) > 5
    assert sorted(zip(voters[voter].tolist(), of_thing.tolist(), strict=True)) == sorted(expected_things)
    assert sorted(zip(*map(np.ndarray.tolist, stuff), strict=True)) == sorted(expected_stuff)
