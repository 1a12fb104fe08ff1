import json

import numpy as np
import pytest
from evaluation_data import Labels, categories, compare, permuted, random_pseudo, random_truth, relabelled
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute, pq_compute_single_core

from u2seg.evaluation.tables import VOID

CLOSE = {"rel": 0, "abs": 1e-12}


def oracle_labels(comparison, truth, pseudo, pred_class):
    """Both sides relabelled to classes on whole maps, and the categories that panopticapi shall know."""
    taxonomy = comparison.taxonomy
    things = {int(index) for index in np.flatnonzero(taxonomy.isthing)}
    known = [
        {"id": i, "name": name, "supercategory": "", "isthing": int(i in things)}
        for i, name in enumerate(taxonomy.names)
    ]
    of_cluster = dict(zip(comparison.table.pred["category"].tolist(), pred_class.tolist(), strict=True))
    of_cluster = {key: None if value == VOID else value for key, value in of_cluster.items()}
    of_category = dict(taxonomy.class_of)
    return relabelled(truth, of_category, things, known), relabelled(pseudo, of_cluster, things, known)


def panopticapi_counts(tmp_path, gt, guess):
    """iou, tp, fp, fn by class from panopticapi's own loop over written files."""
    (gt_json, gt_dir), (guess_json, guess_dir) = (
        labels.write(tmp_path / f"{name}.json", tmp_path / name) for name, labels in (("gt", gt), ("guess", guess))
    )
    pairs = [json.loads(file.read_text())["annotations"] for file in (gt_json, guess_json)]
    known = {entry["id"]: entry for entry in gt.categories}
    return pq_compute_single_core(0, list(zip(*pairs, strict=True)), str(gt_dir), str(guess_dir), known)


def random_classes(comparison, rng):
    """Some class of its kind, or void, for each cluster; given to the segments."""
    classes = np.full(len(comparison.cluster_ids), VOID)
    for index, isthing in enumerate(comparison.cluster_isthing):
        classes[index] = rng.choice([VOID, *np.flatnonzero(comparison.taxonomy.isthing == isthing)])
    return classes[comparison.cluster]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["category", "supercategory"]))
def test_counts_equal_panopticapi(tmp_path_factory, seed, stuff):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=4, crowd=0.3)
    pseudo = random_pseudo(rng, truth)
    comparison = compare(truth, pseudo, stuff=stuff)
    pred_class = random_classes(comparison, rng)
    counts = comparison.class_counts(pred_class)
    expected = panopticapi_counts(tmp_path_factory.mktemp("pq"), *oracle_labels(comparison, truth, pseudo, pred_class))
    for index in range(len(comparison.taxonomy)):
        found = [column[index] for column in (counts.tp, counts.fp, counts.fn)]
        assert found == [expected[index].tp, expected[index].fp, expected[index].fn]
        assert counts.iou[index] == pytest.approx(expected[index].iou, **CLOSE)


def test_averages_equal_panopticapi(tmp_path, capsys):
    rng = np.random.default_rng(3)
    truth = random_truth(rng, photos=30)
    pseudo = random_pseudo(rng, truth)
    comparison = compare(truth, pseudo)
    pred_class = comparison.best_classes()
    pred_class = random_classes(comparison, rng)
    gt, guess = oracle_labels(comparison, truth, pseudo, pred_class)
    gt.write(tmp_path / "gt.json", tmp_path / "gt")
    guess.write(tmp_path / "guess.json", tmp_path / "guess")
    expected = pq_compute(*(str(tmp_path / name) for name in ("gt.json", "guess.json", "gt", "guess")))
    capsys.readouterr()
    figures = comparison.figures(pred_class)
    assert 0 < figures["PQ"] < 100
    for suffix, key in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for name in ("pq", "sq", "rq"):
            assert figures[f"{name.upper()}{suffix}"] == pytest.approx(100 * expected[key][name], rel=0, abs=1e-10)


def test_of_two_crowds_of_one_class_the_last_is_heeded_as_in_panopticapi(tmp_path):
    ids = np.repeat([11, 12, 13], 4)[None].repeat(2, axis=0)
    truth = Labels(categories())
    truth.add(ids, [{"id": i, "category_id": 1, "iscrowd": int(i != 13)} for i in (11, 12, 13)])
    known = [{"id": 1, "name": "a", "supercategory": "", "isthing": 1}]
    for cut in (3, 7):  # the prediction lies in the first crowd, or mostly in the second
        pseudo = Labels(known)
        pseudo.add(
            np.where(np.arange(12) < cut, np.where(np.arange(12) >= cut - 3, 1, 0), 0)[None].repeat(2, axis=0),
            [{"id": 1, "category_id": 1}],
        )
        comparison = compare(truth, pseudo)
        counts = comparison.class_counts(np.zeros(1, np.int64))
        expected = panopticapi_counts(tmp_path, *oracle_labels(comparison, truth, pseudo, np.zeros(1, np.int64)))[0]
        assert (counts.fp[0], counts.fn[0]) == (expected.fp, expected.fn)
    assert comparison.one_class_things()["PQ_th"] == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_figures_are_percentages_and_permuted_truth_is_perfect(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    comparison = compare(truth, random_pseudo(rng, truth))
    figures = comparison.figures(random_classes(comparison, rng))
    assert all(np.isnan(value) or 0 <= value <= 100 for value in figures.values())
    perfect = compare(truth, permuted(truth, rng), stuff="category")
    assert all(np.isnan(v) or v == pytest.approx(100) for v in perfect.figures(perfect.best_classes()).values())


def test_all_void_scores_zero():
    rng = np.random.default_rng(0)
    truth = random_truth(rng)
    comparison = compare(truth, random_pseudo(rng, truth))
    figures = comparison.figures(np.full(len(comparison.cluster), VOID))
    assert set(figures.values()) == {0.0}


def test_one_class_pq_equals_panopticapi(tmp_path):
    rng = np.random.default_rng(5)
    truth = random_truth(rng, photos=10, crowd=0)
    pseudo = random_pseudo(rng, truth)
    comparison = compare(truth, pseudo)
    known = [{"id": i, "name": str(i), "supercategory": "", "isthing": int(i == 0)} for i in (0, 1)]
    is_thing = {entry["id"]: entry["isthing"] for entry in (*truth.categories,)}
    gt = relabelled(truth, {key: 0 if flag else 1 for key, flag in is_thing.items()}, {0}, known)
    kinds = {entry["id"]: entry["isthing"] for entry in pseudo.categories}
    guess = relabelled(pseudo, {key: 0 if flag else None for key, flag in kinds.items()}, {0}, known)
    expected = panopticapi_counts(tmp_path, gt, guess)[0]
    pq = expected.iou / (expected.tp + 0.5 * expected.fp + 0.5 * expected.fn)
    assert comparison.one_class_things()["PQ_th"] == pytest.approx(100 * pq, rel=0, abs=1e-10)
