import json
import os

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import launch
from evaluation_data import permuted, random_pseudo, random_truth
from evaluation_model import compare_outputs, evaluator, model_outputs, oracle_figures

from u2seg.engine.config import get_cfg
from u2seg.errors import DataError, UsageError
from u2seg.evaluation.evaluator import build_evaluator
from u2seg.evaluation.fitting import directory_name
from u2seg.evaluation.matching import RULES
from u2seg.structures import LabelSpace


@pytest.fixture
def truth(tmp_path):
    labels = random_truth(np.random.default_rng(4), photos=14)
    labels.write(tmp_path / "gt.json", tmp_path / "gt")
    return labels


def test_permuted_truth_scores_100_everywhere_and_nothing_is_written(truth, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    space = LabelSpace(4, 4)
    run = evaluator(tmp_path, space)
    run.process(*model_outputs(permuted(truth, np.random.default_rng(0)), space))
    results = run.evaluate()
    assert list(results) == [*RULES, "class_agnostic"]
    for policy in RULES:
        figures = {name: value for name, value in results[policy].items() if not name.endswith("_by_chance")}
        assert len(figures) == 19
        for name, value in figures.items():
            assert value == pytest.approx(100), (policy, name)
        assert results[policy]["PQ_by_chance"] < 60
        assert not any(name.startswith(("AP", "AR")) for name in results[policy] if name.endswith("_by_chance"))
    assert results["class_agnostic"]["AP_mask"] == pytest.approx(100)
    assert os.listdir() == []


@pytest.mark.parametrize("policy", ["many_to_one", "one_to_one", "u2seg_paper"])
def test_figures_equal_detectron2s_own_evaluators(policy, truth, tmp_path):
    space = LabelSpace(5, 4)
    pseudo = random_pseudo(np.random.default_rng(2), truth)
    run = evaluator(tmp_path, space, policies=[policy], seeds=0, output_dir=tmp_path / "out")
    run.process(*model_outputs(pseudo, space, extra=2))
    found = run.evaluate()[policy]
    saved = json.loads((tmp_path / "out" / "matching.json").read_text())["policies"][policy]["class_of_cluster"]
    of_cluster = {int(key): None if value is None else value + 1 for key, value in saved.items()}
    expected = oracle_figures(tmp_path, truth, pseudo, space, run, of_cluster, merge=policy != "u2seg_paper")
    for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"):
        assert found[name] == pytest.approx(expected["panoptic_seg"][name], rel=0, abs=1e-9)
    for kind, task in (("mask", "segm"), ("box", "bbox")):
        assert found[f"AP_{kind}"] == pytest.approx(expected[task]["AP"], rel=0, abs=1e-9)
        assert found[f"AP50_{kind}"] == pytest.approx(expected[task]["AP50"], rel=0, abs=1e-9)
    assert found["mIoU"] == pytest.approx(expected["sem_seg"]["mIoU"], rel=0, abs=1e-9)
    assert found["pixel_accuracy"] == pytest.approx(expected["sem_seg"]["pACC"], rel=0, abs=1e-9)
    assert 0 < found["PQ"] < 100
    assert 0 < found["AP_mask"] < 100
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("matching.json", "results.json", "results.txt", "clusters.png")
    }


def _half(folder, file):
    from detectron2.utils import comm

    truth = random_truth(np.random.default_rng(4), photos=14)
    space = LabelSpace(5, 4)
    given, outputs = model_outputs(random_pseudo(np.random.default_rng(2), truth), space, extra=2)
    run = evaluator(folder, space, distributed=True)
    run.process(given[comm.get_rank() :: comm.get_world_size()], outputs[comm.get_rank() :: comm.get_world_size()])
    results = run.evaluate()
    assert (results is not None) == comm.is_main_process()
    if results:
        file.write_text(json.dumps(results))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(truth, tmp_path):
    for processes in (1, 2):
        launch(_half, processes, dist_url="auto", args=(tmp_path, tmp_path / f"{processes}.json"))
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()


def test_shuffled_segments_follow_their_detections(truth, tmp_path):
    space = LabelSpace(5, 4)
    run = evaluator(tmp_path, space)
    run.process(*model_outputs(random_pseudo(np.random.default_rng(2), truth), space, extra=2))
    comparison = compare_outputs(run)
    count = len(comparison.table.pred)
    things = np.flatnonzero(comparison.table.pred["isthing"])
    for cluster in (comparison.cluster, comparison.shuffled(0)):
        assert np.array_equal(cluster[things], cluster[comparison.table.pred["origin"][things]])
    assert sorted(comparison.cluster[count:]) == sorted(comparison.shuffled(0)[count:])


@pytest.fixture
def registered(truth, tmp_path):
    """A config, and two registered sets of human labels."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5, 5
    names = [f"{kind} {tmp_path.name}" for kind in ("first", "second")]
    for name in names:
        MetadataCatalog.get(name).set(panoptic_json=str(tmp_path / "gt.json"), panoptic_root=str(tmp_path / "gt"))
    return cfg, names


def test_matching_carries_over_from_one_set_to_the_next(registered, truth):
    cfg, (first, second) = registered
    photos = model_outputs(random_pseudo(np.random.default_rng(2), truth), LabelSpace(5, 4))
    whole = build_evaluator(cfg, first)
    whole.process(*photos)
    fitted = whole.evaluate()
    cfg.TEST.MATCHING.FIT_ON = first
    other = build_evaluator(cfg, second)
    other.process(*photos)
    carried = other.evaluate()
    assert carried["many_to_one_transferred"]["PQ"] == fitted["many_to_one"]["PQ"]
    cfg.TEST.MATCHING.FIT_ON = "never seen"
    with pytest.raises(UsageError, match="evaluate on it first, or name it before"):
        build_evaluator(cfg, second)


def test_wrong_choices_are_told(registered, truth):
    cfg, (first, _) = registered
    cfg.TEST.EVALUATOR = "HungarianPanoptic"
    with pytest.raises(UsageError, match="Did you mean 'HungarianPanopticEvaluator'"):
        build_evaluator(cfg, first)
    cfg.TEST.EVALUATOR = "HungarianPanopticEvaluator"
    with pytest.raises(UsageError, match="no panoptic labels"):
        build_evaluator(cfg, "without labels")
    run = build_evaluator(cfg, first)
    with pytest.raises(DataError, match="saw no photo"):
        run.evaluate()
    given, outputs = model_outputs(random_pseudo(np.random.default_rng(2), truth), LabelSpace(5, 4))
    with pytest.raises(DataError, match="no labels of image id 99"):
        run.process([{**given[0], "image_id": 99}], outputs[:1])
    with pytest.raises(DataError, match="gives no panoptic_seg"):
        run.process(given[:1], [{"sem_seg": None}])
    small = {"panoptic_seg": (torch.zeros(3, 4, dtype=torch.int32), [])}
    with pytest.raises(DataError, match=r"photo .photo 000\.jpg.: its label is 4 x 3 pixels, the ground truth 40 x 30"):
        run.process(given[:1], [small])


def test_folder_names_are_plain_and_stay(tmp_path):
    assert directory_name("coco_2017_val_panoptic") == "coco_2017_val_panoptic"
    path = tmp_path / "labels"
    path.mkdir()
    assert directory_name(f"pseudo://{path}") == directory_name(str(path))
    assert directory_name(str(path)).startswith("labels-")
