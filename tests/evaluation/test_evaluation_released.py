"""The policy `u2seg_paper` beside a slow oracle of the released evaluation: matching, PQ, AP and the semantic map."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import compare, random_pseudo, random_truth
from evaluation_model import compare_outputs, evaluator, model_outputs, oracle_figures
from hypothesis import given, settings
from hypothesis import strategies as st

from u2seg.evaluation.matching import MANY_TO_ONE, U2SEG_PAPER
from u2seg.evaluation.quality import renamed_in_place
from u2seg.evaluation.tables import VOID
from u2seg.structures import LabelSpace

SPACE = LabelSpace(5, 4)


@pytest.fixture(scope="module")
def oracle():
    path = Path(__file__).parents[1] / "oracles" / "u2seg_evaluation.py"
    spec = importlib.util.spec_from_file_location("oracle_u2seg_evaluation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[2, 3])
def case(request, tmp_path):
    """Human labels on disk, pseudo labels, a model's outputs made of them, and our evaluator after its pass."""
    truth = random_truth(np.random.default_rng(request.param), photos=14)
    truth.write(tmp_path / "gt.json", tmp_path / "gt")
    pseudo = random_pseudo(np.random.default_rng(request.param), truth, shift=1)
    given, outputs = model_outputs(pseudo, SPACE, extra=2, head=True)
    options = {"policies": [MANY_TO_ONE, U2SEG_PAPER], "stuff": "supercategory", "output_dir": tmp_path / "out"}
    run = evaluator(tmp_path, SPACE, **options)
    run.process(given, outputs)
    return truth, pseudo, outputs, run


def maps(truth, outputs, run):
    """Pairs of maps: the head's clusters, and human classes with 0 for things and -1 for void."""
    taxonomy, pairs = run.taxonomy, []
    things = int(taxonomy.isthing.sum())
    for ids, info, output in zip(truth.maps, truth.infos, outputs, strict=True):
        classes = np.full(ids.shape, -1)
        for segment in info:
            label = taxonomy.class_of[segment["category_id"]]
            classes[ids == segment["id"]] = max(0, label - things + 1)
        pairs.append((output["sem_seg"].argmax(dim=0).numpy(), classes))
    return pairs


def objects(truth, outputs, run):
    """Detections and human things of each photo."""
    for info, output in zip(truth.infos, outputs, strict=True):
        found = output["instances"]
        boxes = found.pred_boxes.tensor.double().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        detections = list(zip(found.pred_classes.tolist(), found.scores.tolist(), boxes.tolist(), strict=True))
        of_thing = {c.id: run.taxonomy.class_of[c.id] for c in run.gt.categories if c.isthing}
        humans = [(of_thing[s["category_id"]], s["bbox"]) for s in info if s["category_id"] in of_thing]
        yield detections, humans


def test_matching_and_figures_equal_the_slow_way(case, oracle, tmp_path):
    truth, pseudo, outputs, run = case
    found = run.evaluate()[U2SEG_PAPER]
    saved = json.loads((tmp_path / "out" / "matching.json").read_text())["policies"][U2SEG_PAPER]["class_of_cluster"]
    things, pairs = int(run.taxonomy.isthing.sum()), maps(truth, outputs, run)
    of_things = oracle.thing_matching(objects(truth, outputs, run), SPACE.num_things)
    of_stuff = oracle.stuff_matching(pairs, SPACE.num_stuff)
    shifted = [None if label is None else label - 1 + things for label in of_stuff]
    assert [saved[str(index)] for index in range(1, 10)] == [*of_things, *shifted]
    assert sum(label is not None for label in of_things) >= 3
    assert sum(label is not None for label in of_stuff) >= 2
    count = len(run.taxonomy) - things
    for suffix, in_place in (("sem_seg", False), ("released", True)):
        accuracy, miou = oracle.semantic_figures(pairs, of_stuff, count, in_place)
        assert found[f"pixel_accuracy_{suffix}"] == pytest.approx(accuracy, rel=0, abs=1e-9)
        assert found[f"mIoU_{suffix}"] == pytest.approx(miou, rel=0, abs=1e-9)
    of_cluster = {i: None if c is None else c + 1 for i, c in enumerate([*of_things, *shifted], start=1)}
    expected = oracle_figures(tmp_path, truth, pseudo, SPACE, run, of_cluster, merge=False)
    for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"):
        assert found[name] == pytest.approx(expected["panoptic_seg"][name], rel=0, abs=1e-9)
    for kind, task in (("mask", "segm"), ("box", "bbox")):
        for name in ("AP", "AP50"):
            assert found[f"{name}_{kind}"] == pytest.approx(expected[task][name], rel=0, abs=1e-9)


def test_only_the_papers_policy_has_the_heads_figures(case):
    results = case[3].evaluate()
    assert "mIoU_released" in results[U2SEG_PAPER]
    assert "mIoU_sem_seg_by_chance" in results[U2SEG_PAPER]
    assert not any("sem_seg" in name or "released" in name for name in results[MANY_TO_ONE])


def test_shuffled_stuff_segments_follow_the_heads_regions(case):
    run = case[3]
    comparison = compare_outputs(run)
    regions, segments = comparison.regions.pred, comparison.table.pred
    start = comparison.starts[1]
    shuffled = comparison.shuffled(0)
    assert sorted(shuffled[start:]) == sorted(comparison.cluster[start:])
    assert not np.array_equal(shuffled[start:], comparison.cluster[start:])
    place = {key: start + i for i, key in enumerate(regions[["image", "category"]].tolist())}
    for index in np.flatnonzero(~segments["isthing"]).tolist():
        assert shuffled[index] == shuffled[place[segments[index][["image", "category"]].item()]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 5))
def test_renaming_in_place_equals_renaming_a_map(seed, clusters, classes):
    rng = np.random.default_rng(seed)
    of_cluster = np.append(0, rng.integers(-1, classes, clusters))  # one thing, of class 0
    of_cluster[1:] += of_cluster[1:] != VOID
    pixels = np.arange(1, clusters + 1)
    for cluster in range(1, clusters + 1):
        pixels[pixels == cluster] = classes + 1 if of_cluster[cluster] == VOID else of_cluster[cluster]
    found = renamed_in_place(of_cluster, np.arange(clusters + 1) < 1, np.arange(classes + 1) < 1)
    assert found[0] == 0
    assert np.array_equal(np.where(found[1:] == VOID, classes + 1, found[1:]), pixels)


def test_stuff_segments_of_one_class_stay_several_in_the_papers_pq():
    truth = random_truth(np.random.default_rng(1), photos=10)
    comparison = compare(truth, random_pseudo(np.random.default_rng(1), truth))
    classes = np.where(comparison.table.pred["isthing"], VOID, len(comparison.taxonomy) - 1)
    joined, several = (comparison.class_counts(classes, policy) for policy in (MANY_TO_ONE, U2SEG_PAPER))
    stuff = int((classes != VOID).sum())
    assert (several.tp + several.fp).sum() > (joined.tp + joined.fp).sum()
    assert (several.tp + several.fp)[-1] <= stuff
