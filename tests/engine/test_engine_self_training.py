"""tools/generate_pseudo.py with a model as its label source: two rounds, a crash, and everything that does not fit."""

import contextlib
import importlib.util
import io
import json
import logging
import pickle
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image
from synthetic_panoptic import TINY_CONFIG, read_json, write_dataset, write_json
from training_tool import setup, train_net

from u2seg.engine import rounds
from u2seg.engine.earlier_labels import EarlierLabels
from u2seg.engine.rounds import label_round
from u2seg.engine.self_training import SelfTrainingGenerator
from u2seg.engine.trainer import Trainer
from u2seg.errors import UsageError
from u2seg.panoptic import encode_ids
from u2seg.runtime import run_tool
from u2seg.structures import STUFF_VOID, LabelSpace, MaskSet

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "pseudo" / "self_training.yaml"
SCORE = 0.5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Labels, and the OUTPUT_DIR of a model for them, which was not trained: its heads are wild, so it sees things."""
    root = tmp_path_factory.mktemp("round")
    labels = write_dataset(root / "labels", photos=3)
    options = ["DATASETS.TRAIN", str(labels), "OUTPUT_DIR", str(root / "model"), "MODEL.DEVICE", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_net, "register_detectron2", lambda: None)
        trainer = Trainer(setup(options))
        torch.manual_seed(3)
        with torch.no_grad():
            trainer.model.sem_seg_head.predictor.weight.normal_(std=1.0)
            for stage in trainer.model.roi_heads.box_predictor:
                stage.cls_score.weight.normal_(std=0.5)
        trainer.checkpointer.save("model_final", iteration=1)
    return types.SimpleNamespace(labels=labels, model=root / "model")


@pytest.fixture
def case(made, tmp_path):
    """The same in a place where it may be spoilt; ``.options`` names both."""
    shutil.copytree(made.labels, tmp_path / "labels")
    shutil.copytree(made.model, tmp_path / "model")
    found = types.SimpleNamespace(labels=tmp_path / "labels", model=tmp_path / "model", out=tmp_path / "out")
    found.options = ["U2SEG.SELF_TRAINING.LABELS", str(found.labels), "U2SEG.SELF_TRAINING.MODEL", str(found.model)]
    found.options += ["U2SEG.SELF_TRAINING.SCORE", str(SCORE), "U2SEG.EXECUTOR.NAME", "inline"]
    return found


def tool():
    spec = importlib.util.spec_from_file_location("generate_pseudo", ROOT / "tools" / "generate_pseudo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generate(output, options, *flags):
    """Run the tool: exit code, stdout, stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    command = ["--config-file", str(CONFIG), "--output", str(output), *flags, *options]
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run_tool(lambda: tool().main(command))
    return types.SimpleNamespace(code=code, out=stdout.getvalue(), err=stderr.getvalue())


def result(output):
    files = [output / "panoptic.json", output / "instances.json", *sorted((output / "panoptic").iterdir())]
    return {path.name: path.read_bytes() for path in files}


def test_a_round_makes_a_dataset_of_the_same_kind_and_the_next_round_takes_it(case, tmp_path):
    from pycocotools.coco import COCO

    done = generate(case.out, case.options)
    assert done.code == 0, done.err
    assert "labelled 3 photos" in done.out
    before, after = read_json(case.labels), read_json(case.out)
    assert after["categories"] == LabelSpace(3, 2).categories()
    assert [(i["id"], i["file_name"]) for i in after["images"]] == [(i["id"], i["file_name"]) for i in before["images"]]
    for annotation in after["annotations"]:
        ids = np.asarray(Image.open(case.out / "panoptic" / annotation["file_name"])).astype(int) @ [1, 256, 65536]
        assert {s["id"]: s["area"] for s in annotation["segments_info"]} == {
            i: int((ids == i).sum()) for i in np.unique(ids) if i
        }
    coco = COCO(str(case.out / "instances.json"))
    assert all(coco.annToMask(entry).sum() == entry["area"] > 0 for entry in coco.anns.values())
    run = json.loads((case.out / "run.json").read_text())
    noted = run["self_training"]
    assert (run["generator"], noted["round"], noted["labels"]) == ("SelfTrainingGenerator", 1, str(case.labels))
    assert noted["min_score"] == pytest.approx(SCORE - 0.05)
    assert len(noted["weights_sha256"]) == len(noted["labels_sha256"]["panoptic.json"]) == 64
    assert noted["things"]["predicted"] > 0
    assert noted["things"]["kept"] > 0
    total = noted["things"]["predicted"] + noted["things"]["kept"]
    assert total == len(coco.anns) == run["counts"]["masks"]
    assert noted["things"]["kept"] + noted["things"]["replaced"] == count_things(case.labels)
    assert run["config"]["U2SEG"]["NUM_THINGS"] == 3
    assert "FEATURES" not in run["config"]["U2SEG"]
    case.options[1] = str(case.out)
    assert generate(tmp_path / "second", case.options).code == 0
    second = json.loads((tmp_path / "second" / "run.json").read_text())["self_training"]
    assert (second["round"], second["labels"]) == (2, str(case.out))
    assert second["min_score"] == pytest.approx(SCORE - 0.10)


def count_things(labels):
    return sum(segment["isthing"] for a in read_json(labels)["annotations"] for segment in a["segments_info"])


def test_evaluation_gallery_and_training_read_it(case, tmp_path):
    from u2seg.data.datasets import load_pseudo_dataset
    from u2seg.panoptic import read_ids
    from u2seg.report.gallery import write_gallery

    assert generate(case.out, case.options).code == 0
    records = load_pseudo_dataset(case.out)
    assert len(records) == 3
    for record in records:
        assert read_ids(record["pan_seg_file_name"]).shape == (record["height"], record["width"])
        assert Path(record["file_name"]).is_file()
    assert write_gallery(str(case.out), str(tmp_path / "gallery"), workers=1).is_file()
    page = (tmp_path / "gallery" / "run.html").read_text()
    assert "SelfTrainingGenerator" in page


def test_it_resumes_after_a_crash_and_gives_the_same(case, tmp_path, monkeypatch):
    assert generate(case.out, case.options).code == 0
    calls = []

    def dies(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments, **more)

    write = rounds.write_round
    monkeypatch.setattr(rounds, "write_round", dies)
    again = tmp_path / "again"
    assert generate(again, case.options).code == 130
    assert not (again / "panoptic.json").exists()
    assert generate(again, case.options).code == 0
    assert len(calls) == 4  # two before the crash, and the two photos that were missing
    assert result(again) == result(case.out)
    assert generate(again, case.options).code == 0
    assert len(calls) == 4
    other = generate(again, [*case.options, "U2SEG.SELF_TRAINING.MAX_IOU", "0.3"])
    assert other.code == 2
    assert "was made with other settings" in other.err
    assert generate(again, case.options, "--redo", "stuff").code == 0
    assert len(calls) == 7
    assert result(again) == result(case.out)


def test_a_damaged_record_in_a_shard_is_made_again(case, monkeypatch):
    monkeypatch.setattr("u2seg.pseudo.index.FEWEST_RECORDS", 1)
    assert generate(case.out, case.options).code == 0
    before, (shard,) = result(case.out), (case.out / "stages" / "masks").rglob("*.zip")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    assert generate(case.out, case.options).code == 0
    assert result(case.out) == before


def test_workers_give_what_one_process_gives(case, tmp_path):
    assert generate(case.out, case.options).code == 0
    jobs = [*case.options, "U2SEG.EXECUTOR.SHARD_SIZE", "1"]
    assert generate(tmp_path / "shards", jobs).code == 0
    assert result(tmp_path / "shards") == result(case.out)
    assert pickle.loads(pickle.dumps(label_round)) is label_round  # can travel to a worker


@pytest.mark.slow
def test_worker_processes_give_what_one_process_gives(case, tmp_path):
    assert generate(case.out, case.options).code == 0
    apart = [*case.options, "U2SEG.EXECUTOR.NAME", "process", "U2SEG.EXECUTOR.WORKERS", "2"]
    assert generate(tmp_path / "two", apart).code == 0
    assert result(tmp_path / "two") == result(case.out)


def test_batches(case):
    """A batch pads its photos, so its numbers may differ in the last digits; what is found must not."""
    done = generate(case.out, [*case.options, "U2SEG.EXECUTOR.BATCH_SIZE", "2"])
    assert done.code == 0, done.err
    assert "labelled 3 photos" in done.out


def test_the_labels_decide_which_photos_and_which_ids(case, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(case.labels / "images" / "2.png", one / "2.png")
    assert generate(case.out, case.options, "--images", str(one)).code == 0
    assert [image["id"] for image in read_json(case.out)["images"]] == [2]
    assert [path.name for path in (case.out / "panoptic").iterdir()] == ["2.png"]
    Image.new("RGB", (8, 8)).save(one / "new.png")
    done = generate(tmp_path / "other", case.options, "--images", str(one))
    assert done.code == 2
    assert "1 of the 2 photos are not in U2SEG.SELF_TRAINING.LABELS" in done.err
    assert "'new.png'" in done.err


def test_an_answer_has_the_stuff_that_the_model_paints():
    """Of classes 1 and 4 (stuff 0 and 3) beside a thing; a detection without a pixel is no thing."""
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    detections = Instances((2, 4), pred_masks=masks, scores=torch.tensor([0.9, 0.8]), pred_classes=torch.tensor([5, 6]))
    painted = torch.tensor([[1, 1, 3, 0], [2, 2, 3, 3]], dtype=torch.int32)
    kinds = [(1, True, 5), (2, False, 1), (3, False, 4)]
    segments = [{"id": number, "isthing": thing, "category_id": kind} for number, thing, kind in kinds]
    teacher = types.SimpleNamespace(predict=lambda _: [{"instances": detections, "panoptic_seg": (painted, segments)}])
    ((things, clusters, stuff),) = rounds.ask_teacher(teacher, [np.zeros((2, 4, 3), np.uint8)])
    assert np.array_equal(things.masks, masks[:1].numpy())
    assert clusters.tolist() == [5]
    assert stuff.tolist() == [[255, 255, 3, 255], [0, 0, 3, 3]]


def answer_nothing(teacher, images):
    sizes = [image.shape[:2] for image in images]
    return [(MaskSet.empty(*size), np.zeros(0, np.int64), np.full(size, STUFF_VOID, np.uint8)) for size in sizes]


def test_a_model_that_is_sure_of_nothing_leaves_the_labels_as_they_are(case, monkeypatch):
    monkeypatch.setattr(rounds, "ask_teacher", answer_nothing)
    options = [*case.options, "U2SEG.MERGE.MIN_VISIBLE", "0", "U2SEG.MERGE.MIN_AREA", "0"]
    options += ["U2SEG.MERGE.MAX_STUFF_OVERLAP", "1"]
    assert generate(case.out, options).code == 0
    for before, after in zip(read_json(case.labels)["annotations"], read_json(case.out)["annotations"], strict=True):
        maps = [category_map(root, entry) for root, entry in ((case.labels, before), (case.out, after))]
        assert np.array_equal(*maps)


def category_map(root, annotation):
    ids = np.asarray(Image.open(root / "panoptic" / annotation["file_name"])).astype(int) @ [1, 256, 65536]
    table = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]} | {0: 0}
    return np.vectorize(table.get)(ids)


def test_things_are_replaced_and_added_and_the_stuff_that_the_model_paints_counts(case, monkeypatch):
    """The model sees one thing again, as another class, a new thing, and stuff at the left edge."""
    before = read_json(case.labels)["annotations"]
    thing = next(segment for segment in before[0]["segments_info"] if segment["isthing"])
    ids = np.asarray(Image.open(case.labels / "panoptic" / "1.png")).astype(int) @ [1, 256, 65536]
    seen, other_class = ids == thing["id"], thing["category_id"] % 3
    new = np.zeros_like(seen)
    new[-2:, -4:] = True
    asked = []

    def answer(teacher, images):
        (empty,) = answer_nothing(teacher, images)
        if asked:
            return [empty]
        asked.append(images)
        painted = empty[-1]
        painted[:, :4] = 1
        things = MaskSet(np.stack([seen, new]), np.float32([0.9, 0.95]))
        return [(things, np.array([other_class, other_class]), painted)]

    monkeypatch.setattr(rounds, "ask_teacher", answer)
    options = [*case.options, "U2SEG.MERGE.MIN_VISIBLE", "0", "U2SEG.MERGE.MIN_AREA", "0"]
    options += ["U2SEG.MERGE.MAX_STUFF_OVERLAP", "1"]
    assert generate(case.out, options).code == 0
    after = read_json(case.out)["annotations"]
    expected = category_map(case.labels, before[0])
    left = expected[:, :4]
    left[(left == 0) | (left > 3)] = 3 + 2  # a thing of the labels stays on top
    expected[seen | new] = other_class + 1
    assert np.array_equal(category_map(case.out, after[0]), expected)
    for old, new_entry in zip(before[1:], after[1:], strict=True):
        assert np.array_equal(category_map(case.labels, old), category_map(case.out, new_entry))
    tally = json.loads((case.out / "run.json").read_text())["self_training"]["things"]
    assert tally == {"predicted": 2, "kept": count_things(case.labels) - 1, "replaced": 1}
    assert {0.9, 0.95} <= {segment["score"] for segment in after[0]["segments_info"]}


def test_whole_masks_come_from_instances_json_and_only_those_that_were_painted(case):
    """A mask of which another one hides a part comes back whole, and one that was never painted does not."""
    from pycocotools import mask as coco

    whole = np.zeros((48, 64), np.uint8)
    whole[10:30, 10:40] = 1
    rle = coco.encode(np.asfortranarray(whole))
    segmentation = {"size": [48, 64], "counts": rle["counts"].decode()}
    entry = {"image_id": 1, "category_id": 2, "segmentation": segmentation, "score": 0.4}
    annotations = [{"id": 1, "segment_id": 3, **entry}, {"id": 2, "segment_id": 0, **entry}]
    (case.labels / "instances.json").write_text(json.dumps({"annotations": annotations}))
    masks, clusters, _ = EarlierLabels(str(case.labels)).label(1).read(48, 64)
    assert np.array_equal(masks.masks, whole[None].astype(bool))
    assert (clusters.tolist(), masks.scores.tolist()) == ([1], [np.float32(0.4)])
    halved, _, stuff = EarlierLabels(str(case.labels)).label(1).read(24, 32)
    assert np.array_equal(halved.masks[0], whole[1::2, 1::2].astype(bool))
    assert stuff.shape == (24, 32)


def lose_weights(case):
    (case.model / "model_final.pth").unlink()


def lose_model(case):
    shutil.rmtree(case.model)


def lose_labels(case):
    (case.labels / "panoptic.json").unlink()


def lose_checkpoint_note(case):
    (case.model / "last_checkpoint").unlink()


def cut_weights(case):
    file = case.model / "model_final.pth"
    file.write_bytes(file.read_bytes()[:5000])


def add_a_class(case):
    content = read_json(case.labels)
    write_json(case.labels, {**content, "categories": LabelSpace(3, 3).categories()})


def number_otherwise(case):
    content = read_json(case.labels)
    for segment in (s for annotation in content["annotations"] for s in annotation["segments_info"]):
        segment["category_id"] += 10
    write_json(case.labels, {**content, "categories": [c | {"id": 10 + c["id"]} for c in content["categories"]]})


def use_a_strange_category(case):
    content = read_json(case.labels)
    content["annotations"][0]["segments_info"][0]["category_id"] = 9
    write_json(case.labels, content)


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (lose_weights, [], "model_final.pth' do not exist"),
        (lose_model, [], "no trained model is named"),
        (lose_checkpoint_note, [], "no trained model is named"),
        (cut_weights, [], "are damaged or no checkpoint"),
        (lose_labels, [], "holds no panoptic.json"),
        (add_a_class, [], "knows 3 thing and 2 stuff classes"),
        (number_otherwise, [], "categories are not numbered"),
        (use_a_strange_category, [], "category_id 9, not in 'categories'"),
        (None, ["U2SEG.SELF_TRAINING.LABELS", ""], "LABELS '' holds no panoptic.json"),
        (None, ["U2SEG.SELF_TRAINING.MODEL", ""], "no trained model is named"),
        (None, ["U2SEG.SELF_TRAINING.WEIGHTS", "gone.pth"], "'gone.pth' do not exist"),
        (None, ["U2SEG.SELF_TRAINING.CONFIG_FILE", "gone.yaml"], "'gone.yaml' does not exist"),
        (None, ["U2SEG.SELF_TRAINING.SCORE", "1.5"], "U2SEG.SELF_TRAINING.SCORE must be from 0 to 1"),
        (None, ["U2SEG.SELF_TRAINING.SCORE_STEP", "0.8"], "which is no score"),
        (None, ["U2SEG.NUM_THINGS", "7"], "U2SEG.NUM_THINGS is 7, but"),
        (None, ["U2SEG.GENERATOR", "SelfTrainingGenerater"], "Did you mean 'SelfTrainingGenerator'"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(case, spoil, more, words):
    if spoil:
        spoil(case)
    done = generate(case.out, [*case.options, *more])
    assert done.code == 2
    line = done.err.strip().splitlines()[-1]
    assert words in line
    assert "Traceback" not in done.err
    assert not (case.out / "panoptic.json").exists()


def test_the_labels_are_never_overwritten(case):
    before = case.labels / "panoptic.json"
    text = before.read_bytes()
    done = generate(case.labels, case.options)
    assert done.code == 2
    assert "--output is U2SEG.SELF_TRAINING.LABELS itself" in done.err
    assert before.read_bytes() == text
    assert not (case.labels / "stages").exists()


def test_a_photo_that_can_not_be_labelled_costs_the_others_nothing(case):
    (case.labels / "images" / "1.png").write_bytes(b"no photo")
    Image.fromarray(encode_ids(np.zeros((5, 5), np.int32))).save(case.labels / "panoptic" / "2.png")
    done = generate(case.out, case.options, "--strict")
    assert done.code == 1
    assert "labelled 1 photos" in done.out
    assert "1.png: not an image" in done.out
    assert "2.png has 5 x 5 pixels" in done.out
    assert [image["id"] for image in read_json(case.out)["images"]] == [3]


def test_weights_alone_and_caveats(case):
    (case.labels / "run.json").write_text(json.dumps({"caveats": ["its features have seen labels"]}))
    options = [*case.options[:2], *case.options[4:], "U2SEG.SELF_TRAINING.CONFIG_FILE", str(TINY_CONFIG)]
    options += ["U2SEG.SELF_TRAINING.WEIGHTS", str(case.model / "model_final.pth")]
    assert generate(case.out, options).code == 0
    assert json.loads((case.out / "run.json").read_text())["caveats"] == ["its features have seen labels"]
    assert read_json(case.out)["info"]["caveats"] == ["its features have seen labels"]


def test_a_plugin_can_bring_a_generator_of_its_own(case, monkeypatch):
    from u2seg.plugins import registry
    from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS

    class Elsewhere(SelfTrainingGenerator):
        def run(self, stages, redo=None):
            raise UsageError(f"Elsewhere was asked for {len(self.photos)} photos")

    monkeypatch.setattr(PSEUDO_LABEL_GENERATORS, "_obj_map", dict(PSEUDO_LABEL_GENERATORS))
    monkeypatch.setattr(registry, "register_detectron2", lambda: PSEUDO_LABEL_GENERATORS.register(Elsewhere))
    done = generate(case.out, [*case.options, "U2SEG.GENERATOR", "Elsewhere"])
    assert "Elsewhere was asked for 3 photos" in done.err


def test_the_name_is_listed_and_the_factory_needs_images(capsys):
    assert tool().main(["--list-plugins"]) == 0
    listed = capsys.readouterr().out
    assert "SelfTrainingGenerator" in listed
    assert "U2SegGenerator" in listed
    assert SelfTrainingGenerator.__doc__.splitlines()[0] in listed
    logging.getLogger("u2seg").setLevel(logging.INFO)
    assert run_tool(lambda: tool().main(["--output", "nowhere"])) == 2
    assert "--images is missing" in capsys.readouterr().err
