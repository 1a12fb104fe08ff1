import contextlib
import io
import json
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import BitMasks, Boxes, Instances
from evaluation_data import permuted, random_pseudo, random_truth, relabelled
from PIL import Image
from pycocotools import mask as coco_mask

from u2seg.engine.config import get_cfg
from u2seg.errors import DataError, UsageError
from u2seg.evaluation.config import add_evaluation_config
from u2seg.evaluation.evaluator import HungarianPanopticEvaluator, build_evaluator
from u2seg.evaluation.matching import RULES
from u2seg.evaluation.saved import directory_name
from u2seg.structures import LabelSpace


def model_outputs(pseudo, space, extra=None):
    """Inputs and outputs as Detectron2's PanopticFPN gives them; instances reach under other segments and beyond."""
    rng = np.random.default_rng(0)
    given, outputs = [], []
    for number, (ids, info) in enumerate(zip(pseudo.maps, pseudo.infos, strict=True), start=1):
        segments, classes, scores, masks = [], [], [], []
        for segment in info:
            if space.is_thing(segment["category_id"]):
                label = {"isthing": True, "category_id": segment["category_id"] - 1, "instance_id": len(masks)}
                classes.append(segment["category_id"] - 1)
                scores.append(segment["score"])
                masks.append(
                    (ids == segment["id"]) | (np.roll(ids, 1, 0) == segment["id"]) if extra else ids == segment["id"]
                )
                label["score"] = segment["score"]
            else:
                label = {"isthing": False, "category_id": segment["category_id"] - space.num_things}
            segments.append({"id": segment["id"], **label})
        for _ in range(extra or 0):
            masks.append(np.roll(rng.choice(masks) if masks else ids >= 0, 3, 1))
            classes.append(int(rng.integers(space.num_things)))
            scores.append(0.05)
        found = Instances(ids.shape)
        found.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *ids.shape))
        found.pred_boxes = Boxes(BitMasks(found.pred_masks).get_bounding_boxes().tensor)
        found.pred_classes, found.scores = torch.tensor(classes, dtype=torch.int64), torch.tensor(scores)
        given.append({"image_id": number, "file_name": f"{number}.jpg", "height": ids.shape[0], "width": ids.shape[1]})
        outputs.append({"panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments), "instances": found})
    return given, outputs


def evaluator(folder, space, **options):
    arguments = {
        "policies": list(RULES),
        "seeds": 2,
        "distributed": False,
        "name": "test",
        "stuff": "category",
    } | options
    return HungarianPanopticEvaluator(
        panoptic_json=str(folder / "gt.json"), panoptic_root=str(folder / "gt"), space=space, **arguments
    )


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
            # COCO scores AR@100 and AP 100; u2seg_paper takes no votes of crowds
            assert value == pytest.approx(100) or (policy == "u2seg_paper" and value > 80), (policy, name)
        assert results[policy]["PQ_by_chance"] < 60
        assert results[policy]["AP_mask_by_chance"] < 60
    assert results["class_agnostic"]["AP_mask"] == pytest.approx(100)
    assert os.listdir() == []


def read_semantic(file, dtype):
    """Detectron2's own reader does not work with numpy 2."""
    return np.asarray(Image.open(file)).astype(dtype)


def oracle_figures(tmp_path, truth, pseudo, space, run, of_cluster):
    """Figures of Detectron2's own evaluators, given the class of each category id of the model."""
    names, isthing = run.taxonomy.names, run.taxonomy.isthing
    things = {int(i) + 1 for i in np.flatnonzero(isthing)}
    known = [
        {"id": i + 1, "name": n, "supercategory": "", "isthing": int(i + 1 in things)} for i, n in enumerate(names)
    ]
    human = relabelled(truth, {key: label + 1 for key, label in run.taxonomy.class_of.items()}, things, known)
    merged = relabelled(pseudo, of_cluster, things, known)
    human.write(tmp_path / "human.json", tmp_path / "human")
    content = json.loads((tmp_path / "human.json").read_text())
    content["annotations"] = []
    for number, (ids, info) in enumerate(zip(human.maps, human.infos, strict=True), start=1):
        for segment in info:
            if segment["category_id"] in things:
                code = coco_mask.encode(np.asfortranarray((ids == segment["id"]).astype(np.uint8)))
                code["counts"] = code["counts"].decode()
                entry = {**segment, "id": len(content["annotations"]) + 1, "image_id": number, "segmentation": code}
                content["annotations"].append(entry)
    content["categories"] = [entry for entry in known if entry["isthing"]]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dicts = []
    for number, (ids, info) in enumerate(zip(human.maps, human.infos, strict=True), start=1):
        label = np.full(ids.shape, 255, np.uint8)
        for segment in info:
            label[ids == segment["id"]] = segment["category_id"] - 1
        Image.fromarray(label).save(tmp_path / f"semantic{number}.png")
        dicts.append({"file_name": f"{number}.jpg", "sem_seg_file_name": str(tmp_path / f"semantic{number}.png")})
    name = f"oracle {tmp_path}"
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / "instances.json"),
        panoptic_json=str(tmp_path / "human.json"),
        panoptic_root=str(tmp_path / "human"),
        thing_classes=[names[i - 1] for i in sorted(things)],
        stuff_classes=[*names, "no class"],
        thing_dataset_id_to_contiguous_id={i: i - 1 for i in things},
        stuff_dataset_id_to_contiguous_id={i: i - 1 for i in range(1, len(names) + 2)},  # the last for no class
        ignore_label=255,
    )
    given, outputs = model_outputs(pseudo, space, extra=2)
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluators = [
            COCOPanopticEvaluator(name),
            COCOEvaluator(name, ("bbox", "segm"), distributed=False, output_dir=None, use_fast_impl=False),
            SemSegEvaluator(name, distributed=False, output_dir=None, sem_seg_loading_fn=read_semantic),
        ]
        for each in evaluators:
            each.reset()
            for photo, output, ids, info in zip(given, outputs, merged.maps, merged.infos, strict=True):
                segments = [
                    {"id": s["id"], "isthing": s["category_id"] in things, "category_id": s["category_id"] - 1}
                    for s in info
                ]
                found = output["instances"]
                classes = [of_cluster[c + 1] for c in found.pred_classes.tolist()]
                kept = found[torch.tensor([c is not None for c in classes], dtype=torch.bool)]
                kept.pred_classes = torch.tensor([c - 1 for c in classes if c is not None], dtype=torch.int64)
                label = np.full(ids.shape, len(names))
                for segment in info:
                    label[ids == segment["id"]] = segment["category_id"] - 1
                one_hot = torch.nn.functional.one_hot(torch.from_numpy(label), len(names) + 1).permute(2, 0, 1)
                whole = torch.from_numpy(ids.astype(np.int32)), segments
                each.process([photo], [{"panoptic_seg": whole, "instances": kept, "sem_seg": one_hot}])
            figures |= each.evaluate()
    return figures


@pytest.mark.parametrize("policy", ["many_to_one", "one_to_one", "u2seg_paper"])
def test_figures_equal_detectron2s_own_evaluators(policy, truth, tmp_path):
    space = LabelSpace(5, 4)
    pseudo = random_pseudo(np.random.default_rng(2), truth)
    run = evaluator(tmp_path, space, policies=[policy], seeds=0, output_dir=tmp_path / "out")
    run.process(*model_outputs(pseudo, space, extra=2))
    found = run.evaluate()[policy]
    saved = json.loads((tmp_path / "out" / "matching.json").read_text())["policies"][policy]["class_of_cluster"]
    of_cluster = {int(key): None if value is None else value + 1 for key, value in saved.items()}
    expected = oracle_figures(tmp_path, truth, pseudo, space, run, of_cluster)
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


def test_dealt_segments_follow_their_detections(truth, tmp_path):
    space = LabelSpace(5, 4)
    run = evaluator(tmp_path, space)
    run.process(*model_outputs(random_pseudo(np.random.default_rng(2), truth), space, extra=2))
    comparison = run._comparison(run._done)
    count = len(comparison.overlaps.pred)
    things = np.flatnonzero(comparison.overlaps.pred.isthing)
    for cluster in (comparison.cluster, comparison.shuffled(0)):
        assert np.array_equal(cluster[things], cluster[count + comparison.detections.segment[things]])
    assert sorted(comparison.cluster[count:]) == sorted(comparison.shuffled(0)[count:])


@pytest.fixture
def registered(truth, tmp_path):
    """A config, and two registered sets of human labels."""
    cfg = get_cfg()
    add_evaluation_config(cfg)
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
    with pytest.raises(DataError, match="photo 'photo 000': its label is 4 x 3 pixels, the ground truth 40 x 30"):
        run.process(given[:1], [small])


def test_without_the_keys_the_defaults_count(registered):
    cfg, (first, _) = registered
    bare = get_cfg()
    bare.MODEL.ROI_HEADS.NUM_CLASSES, bare.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5, 5
    bare.TEST.pop("MATCHING", None)
    bare.TEST.pop("EVALUATOR", None)
    bare.freeze()
    assert build_evaluator(bare, first).policies == tuple(cfg.TEST.MATCHING.POLICIES)


def test_folder_names_are_plain_and_stay(tmp_path):
    assert directory_name("coco_2017_val_panoptic") == "coco_2017_val_panoptic"
    path = tmp_path / "labels"
    path.mkdir()
    assert directory_name(f"pseudo://{path}") == directory_name(str(path))
    assert directory_name(str(path)).startswith("labels-")
