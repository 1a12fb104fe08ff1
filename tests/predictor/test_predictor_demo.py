"""tools/demo.py: what it writes, what reads that, and its one-line errors."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predictor_model import CONFIDENCE, STUFF, THINGS, make_photo, save_matching
from synthetic_panoptic import write_dataset

from u2seg.files import claim_directory, is_output
from u2seg.panoptic import decode_mask, read_ids, read_instances, read_panoptic
from u2seg.runtime import run_tool

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo(tiny, monkeypatch):
    """Run the demo with the tiny model; options after ``opts`` go to the config."""
    tool = load_tool("demo")
    monkeypatch.setattr(sys, "argv", ["demo.py"])

    def run(*arguments, opts=(), weights=tiny.weights, config=tiny.config):
        words = ["--config-file", config, "--confidence-threshold", str(CONFIDENCE), *map(str, arguments)]
        words += ["--opts", "MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu", *opts]
        return run_tool(lambda: tool.main(words))

    return run


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, size in enumerate([(60, 80), (50, 70)]):
        Image.fromarray(make_photo(*size, seed=index)).save(folder / f"{'ab'[index]}.png")
    return folder


def test_overlays_and_a_dataset_of_the_predictions(demo, photos, tmp_path, predictor, capsys):
    assert demo("--input", f"{photos}/*.png", "--output", tmp_path / "o", "--save-panoptic", tmp_path / "p") == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [".u2seg.json", "a.png", "b.png"]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        ".u2seg.json",
        "instances.json",
        "panoptic",
        "panoptic.json",
    ]
    content = json.loads((tmp_path / "p" / "panoptic.json").read_text())
    assert {c["id"]: c["name"] for c in content["categories"]} == {i: predictor.names[i] for i in range(1, 9)}
    assert content["info"]["image_root"] == str(photos)
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    assert len(content["categories"]) == THINGS + STUFF
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        expected = predictor(photos / image["file_name"])
        np.testing.assert_array_equal(
            read_ids(tmp_path / "p" / "panoptic" / annotation["file_name"]), expected.panoptic
        )
        assert annotation["segments_info"] == [segment.to_coco() for segment in expected.segments]
        with Image.open(tmp_path / "o" / image["file_name"]) as picture:
            np.testing.assert_array_equal(np.array(picture), expected.draw())
    instances = json.loads((tmp_path / "p" / "instances.json").read_text())
    ids = [annotation["id"] for annotation in instances["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert "segmented 2 photos" in capsys.readouterr().out


def test_saved_instances_are_the_masks(demo, photos, tmp_path, predictor):
    assert demo("--input", photos / "a.png", "--save-panoptic", tmp_path / "p") == 0
    (entries,) = read_instances(read_panoptic(tmp_path / "p")).values()
    things = predictor(photos / "a.png").instances
    shown = things.masks.reshape(len(things), -1).any(axis=1)
    assert len(entries) == shown.sum() > 0
    for entry, mask, category in zip(entries, things.masks[shown], things.category_ids[shown], strict=True):
        np.testing.assert_array_equal(decode_mask(entry["segmentation"]), mask)
        assert entry["category_id"] == category
        assert entry["area"] == mask.sum()


def test_labels_of_someone_else_are_never_overwritten(demo, photos, tmp_path, capsys):
    """Issue 9, 1.12: a folder of human COCO labels lost its panoptic.json and PNGs, with exit code 0."""
    labels = write_dataset(tmp_path / "human", photos=2, num_things=2, num_stuff=2)
    before = {path: path.read_bytes() for path in labels.rglob("*") if path.is_file()}
    assert demo("--input", labels / "images", "--save-panoptic", labels) == 2
    assert "--save-panoptic" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in labels.rglob("*") if path.is_file()} == before


def test_an_earlier_run_is_replaced_as_a_whole(demo, photos, tmp_path):
    saved = tmp_path / "p"
    assert demo("--input", photos, "--save-panoptic", saved) == 0
    assert demo("--input", photos / "b.png", "--save-panoptic", saved) == 0
    assert [photo.file_name for photo in read_panoptic(saved).photos] == ["b.png"]
    (photos / "a.png").write_bytes(b"")
    assert demo("--input", photos / "a.png", "--save-panoptic", saved) == 2
    assert [photo.file_name for photo in read_panoptic(saved).photos] == ["b.png"]  # nothing took its place


def test_key_values_come_last_with_or_without_opts(tiny, monkeypatch):
    tool = load_tool("demo")
    pairs = ["MODEL.WEIGHTS", tiny.weights, "MODEL.DEVICE", "cpu"]
    last = (["--opts", *pairs, "--output", "o"], [*pairs, "--output", "o"], [*pairs[:2], "--output", "o", *pairs[2:]])
    for words in (["--output", "o", "--opts", *pairs], ["--output", "o", *pairs], pairs, *last):
        args = tool.parse(["--config-file", tiny.config, "--input", "a.png", "b.png", *words])
        assert args.input == ["a.png", "b.png"]
        assert [*args.opts, *args.key_values] == pairs


def test_evaluation_scores_the_predictions_and_its_matching_names_them(demo, tmp_path, monkeypatch):
    labels = write_dataset(tmp_path / "labels", photos=3, num_things=2, num_stuff=2)
    saved, matching = tmp_path / "p", tmp_path / "matching.json"
    assert demo("--input", labels / "images", "--save-panoptic", saved) == 0
    evaluate = load_tool("evaluate_pseudo")
    words = ["--pseudo", saved, "--gt", labels / "panoptic.json", "--gt-dir", labels / "panoptic", "--seeds", "0"]
    words += ["--gt-stuff", "category", "--save-matching", matching]
    monkeypatch.setattr(sys, "argv", ["evaluate_pseudo.py", *map(str, words)])
    assert not evaluate.main()
    assert demo("--input", labels / "images", "--save-panoptic", saved, "--matching", matching) == 0
    names = {entry["id"]: entry["name"] for entry in json.loads((saved / "panoptic.json").read_text())["categories"]}
    table = json.loads(matching.read_text())
    expected = table["policies"]["many_to_one"]["class_of_cluster"]
    matched = {int(k): table["classes"][v]["name"] for k, v in expected.items() if v is not None}
    assert matched
    assert set(matched.values()) <= set(names.values())


def test_clusters_of_one_class_are_one_category_in_files(demo, photos, tmp_path):
    classes = [("person", True), ("sky", False)]
    matching = save_matching(
        tmp_path / "m.json", classes, {"many_to_one": dict.fromkeys(range(1, 6), 0) | {6: 1, 7: 1, 8: None}}
    )
    assert demo("--input", photos, "--save-panoptic", tmp_path / "p", "--matching", matching) == 0
    dataset = read_panoptic(tmp_path / "p")  # which takes no name twice
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "person"), (6, "sky"), (8, "8")]
    instances = read_instances(dataset)
    used = {s.category_id for photo in dataset.photos for s in photo.segments}
    assert used | {entry["category_id"] for entries in instances.values() for entry in entries} <= {1, 6, 8}


def test_pictures_of_an_earlier_run_are_no_photos(demo, photos, tmp_path, capsys):
    assert demo("--input", photos, "--output", photos / "drawn") == 0
    assert demo("--input", photos, "--output", tmp_path / "again") == 0
    assert capsys.readouterr().out.count("segmented 2 photos") == 2
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("a folder of the user's stays unmarked")
    assert demo("--input", photos, "--output", tmp_path / "used") == 0
    assert not is_output(tmp_path / "used")


def test_the_predictions_are_a_dataset(demo, photos, tmp_path):
    assert demo("--input", photos, "--save-panoptic", tmp_path / "p") == 0
    dataset = read_panoptic(tmp_path / "p")
    assert [dataset.photo_path(photo).read_bytes() for photo in dataset.photos] == [
        (photos / name).read_bytes() for name in ("a.png", "b.png")
    ]
    assert all(photo.segments for photo in dataset.photos)


def test_one_photo_may_go_to_one_file(demo, photos, tmp_path):
    assert demo("--input", photos / "a.png", "--output", tmp_path / "new" / "seen.jpg") == 0
    assert (tmp_path / "new" / "seen.jpg").exists()


def test_photos_of_several_folders_keep_apart(demo, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(make_photo(40, 40)).save(other / "a.png")
    Image.fromarray(make_photo(40, 40)).save(other / "a.jpg")
    given = ["--input", photos / "a.png", other / "a.png", other / "a.jpg"]
    assert demo(*given, "--output", tmp_path / "o", "--save-panoptic", tmp_path / "p") == 0
    files = {path.relative_to(tmp_path / "o").as_posix() for path in (tmp_path / "o").rglob("[!.]*.*")}
    assert files == {"photos/a.png", "other/a.png", "other/a.jpg"}
    labels = {path.relative_to(tmp_path / "p" / "panoptic").as_posix() for path in (tmp_path / "p").rglob("*.png")}
    assert labels == {"photos/a.png", "other/a.png", "other/a.jpg.png"}


def test_a_photo_that_can_not_be_read_is_left_out_and_counted(demo, photos, tmp_path, capsys):
    (photos / "bad.jpg").write_bytes(b"no photo")
    assert demo("--input", photos, "--output", tmp_path / "o", "--save-panoptic", tmp_path / "p") == 1
    assert "1 of 3 photos could not be read" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "p" / "panoptic.json").read_text())["images"]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_what_is_done_is_whole(demo, photos, tmp_path, monkeypatch, number, code):
    from u2seg.engine.predictor import Predictor

    whole = Predictor.__call__

    def interrupted(self, image):
        if str(image).endswith("b.png"):
            os.kill(os.getpid(), number)
            time.sleep(10)
        return whole(self, image)

    monkeypatch.setattr(Predictor, "__call__", interrupted)
    assert demo("--input", photos, "--save-panoptic", tmp_path / "p") == code
    assert len(json.loads((tmp_path / "p" / "panoptic.json").read_text())["annotations"]) == 1


def test_every_mistake_is_one_line(demo, photos, tmp_path, capsys, tiny):
    def line(*arguments, **options):
        capsys.readouterr()
        assert demo(*arguments, **options) == 2
        errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("demo.py: error: ")]
        assert len(errors) == 1
        return errors[0]

    out = ["--output", tmp_path / "o"]
    assert "holds no photos" in line("--input", tmp_path / "gone*.jpg", *out)
    assert "--input 'gone.jpg' does not exist" in line("--input", "gone.jpg", *out)
    assert "no window is opened" in line("--input", photos / "b.png")
    assert "leave --save-panoptic out" in line("--video-input", "f.mp4", *out, "--save-panoptic", tmp_path / "p")
    assert "no config key 'MODEL.WEIGHT'" in line("--input", photos, *out, opts=["MODEL.WEIGHT", "x"])
    assert "Did you mean 'PanopticFPN'?" in line(
        "--input", photos, *out, opts=["MODEL.META_ARCHITECTURE", "PanopticFP"]
    )
    assert "does not exist" in line("--input", photos, *out, config="gone.yaml")
    assert "gone.pth' do not exist" in line("--input", photos, *out, weights="gone.pth")
    assert "there is no file" in line("--input", photos, *out, "--matching", tmp_path / "gone.json")
    assert "is one file, but there are 2 photos" in line("--input", photos, "--output", tmp_path / "o.png")
    assert "would replace the photo" in line("--input", photos, "--output", photos)
    (photos / "a.png").write_bytes(b"")
    assert "no photo could be read" in line("--input", photos / "a.png", *out)
    file = tmp_path / "file"
    file.write_text("")
    assert "o' can't be written: Not a directory" in line("--input", photos, "--output", file / "o")
    assert "can't be written" in line("--input", photos, "--save-panoptic", file / "p")
    labels = claim_directory(tmp_path / "labels", "labels")
    assert "holds labels, not predictions" in line("--input", photos, "--save-panoptic", labels)
