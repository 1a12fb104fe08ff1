"""COCO's labels as a dataset directory, with stuff as it is and merged into supercategories."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from synthetic_panoptic import write_dataset

from u2seg.data.convert import convert_panoptic, export_semantic, number_categories
from u2seg.data.datasets import register_pseudo_dataset
from u2seg.errors import DataError, UsageError
from u2seg.files import claim_directory
from u2seg.panoptic import Category, read_ids, read_panoptic

ROOT = Path(__file__).parents[2]
CATEGORIES = [
    {"id": 93, "name": "grass", "supercategory": "plant", "isthing": 0},
    {"id": 5, "name": "dog", "supercategory": "animal", "isthing": 1},
    {"id": 94, "name": "sky", "supercategory": "sky", "isthing": 0},
    {"id": 1, "name": "cat", "supercategory": "animal", "isthing": 1},
    {"id": 90, "name": "tree", "supercategory": "plant", "isthing": 0},
]


def run_script(name, options, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *options])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(ROOT / "datasets" / name), run_name="__main__")
    return ending.value.code


def test_numbers():
    categories = [Category(color=(0, 0, 0), **{**entry, "isthing": bool(entry["isthing"])}) for entry in CATEGORIES]
    kept, ids = number_categories(categories, merge_stuff=False)
    assert [(c["id"], c["name"]) for c in kept] == [(1, "cat"), (2, "dog"), (3, "tree"), (4, "grass"), (5, "sky")]
    assert ids == {1: 1, 5: 2, 90: 3, 93: 4, 94: 5}
    merged, ids = number_categories(categories, merge_stuff=True)
    assert [(c["id"], c["name"]) for c in merged] == [(1, "cat"), (2, "dog"), (3, "plant"), (4, "sky")]
    assert ids == {1: 1, 5: 2, 90: 3, 93: 3, 94: 4}


@pytest.fixture
def coco(tmp_path):
    """A COCO-like tree whose ids are COCO's."""
    source = write_dataset(tmp_path / "source", photos=3, num_things=2, num_stuff=3)
    content = json.loads((source / "panoptic.json").read_text())
    old = {1: 1, 2: 5, 3: 90, 4: 93, 5: 94}
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = old[segment["category_id"]]
    content["categories"], content["info"] = CATEGORIES, {"year": 2017}
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    (source / "panoptic").rename(root / "annotations" / "panoptic_val2017")
    (source / "images").rename(root / "val2017")
    return root


@pytest.mark.parametrize("merge", [False, True])
def test_script(coco, tmp_path, merge, monkeypatch):
    options = ["--coco", str(coco), "--output", str(tmp_path / "out"), *["--supercategories"] * merge]
    assert run_script("prepare_coco.py", options, monkeypatch) == 0
    written = {}
    for annotation in json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]:
        written[annotation["file_name"]] = {segment["id"]: segment for segment in annotation["segments_info"]}
    name = register_pseudo_dataset(tmp_path / "out")
    assert MetadataCatalog.get(name).stuff_classes[1:] == (["plant", "sky"] if merge else ["tree", "grass", "sky"])
    source = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())["annotations"]
    for entry, annotation in zip(DatasetCatalog.get(name), source, strict=True):
        assert Path(entry["file_name"]).is_file()
        ids = read_ids(entry["pan_seg_file_name"])
        before = read_ids(coco / "annotations" / "panoptic_val2017" / annotation["file_name"])
        kinds = [(segment["isthing"], segment["category_id"]) for segment in entry["segments_info"]]
        stuff = [category for isthing, category in kinds if not isthing]
        assert len(stuff) == len(set(stuff))
        for segment in entry["segments_info"]:
            mask = ids == segment["id"]
            area = written[annotation["file_name"]][segment["id"]]["area"]
            assert area == mask.sum() > 0
            members = {before_id for before_id in np.unique(before[mask])}
            assert np.array_equal(mask, np.isin(before, list(members)))
            assert len(members) == 1 or (merge and not segment["isthing"])
        assert np.array_equal(ids > 0, before > 0)


def test_two_stuff_segments_become_one(tmp_path):
    for name in ("pngs", "photos"):
        (tmp_path / name).mkdir()
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[..., 0] = [[1, 2, 3], [1, 1, 0]]
    Image.fromarray(colours).save(tmp_path / "pngs" / "a.png")
    segments = [{"id": 1, "category_id": 90}, {"id": 2, "category_id": 93}, {"id": 3, "category_id": 5}]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    paths = tmp_path / "a.json", tmp_path / "pngs", tmp_path / "photos", tmp_path / "out"
    convert_panoptic(*paths, merge_stuff=True)
    (entry,) = DatasetCatalog.get(register_pseudo_dataset(tmp_path / "out"))
    plant = next(segment for segment in entry["segments_info"] if not segment["isthing"])
    assert plant["category_id"] == 1
    (annotation,) = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    (written,) = (segment for segment in annotation["segments_info"] if segment["id"] == plant["id"])
    assert (written["area"], written["bbox"]) == (4, [0, 0, 2, 2])
    ids = read_ids(entry["pan_seg_file_name"])
    assert ((ids == plant["id"]) == [[1, 1, 0], [1, 1, 0]]).all()


def test_script_fails_in_one_line(tmp_path, monkeypatch, capsys):
    options = ["--coco", str(tmp_path), "--output", str(tmp_path / "out")]
    assert run_script("prepare_coco.py", options, monkeypatch) == 2
    assert re.search(r"error: .*panoptic_val2017.json does not exist$", capsys.readouterr().err.strip())


@pytest.mark.parametrize("flag", [[], ["--supercategories"]])
def test_nothing_of_the_users_is_overwritten(coco, tmp_path, monkeypatch, capsys, flag):
    """A folder of human labels, or of labels that tools/generate_pseudo.py made, is no place for converted ones."""
    human = write_dataset(tmp_path / "human")
    before = (human / "panoptic.json").read_bytes()
    assert run_script("prepare_coco.py", ["--coco", str(coco), "--output", str(human), *flag], monkeypatch) == 2
    assert "files that u2seg did not write" in capsys.readouterr().err
    assert (human / "panoptic.json").read_bytes() == before
    claim_directory(tmp_path / "pseudo", "labels")
    output = str(tmp_path / "pseudo")
    assert run_script("prepare_coco.py", ["--coco", str(coco), "--output", output, *flag], monkeypatch) == 2
    assert "holds labels" in capsys.readouterr().err
    for _ in range(2):  # its own output may be written again
        output = str(tmp_path / "new")
        assert run_script("prepare_coco.py", ["--coco", str(coco), "--output", output, *flag], monkeypatch) == 0


def test_missing_paths(tmp_path):
    with pytest.raises(UsageError, match=r"no\.json does not exist"):
        convert_panoptic(tmp_path / "no.json", tmp_path, tmp_path, tmp_path / "out")


def test_cityscapes_script(coco, tmp_path, monkeypatch):
    root = tmp_path / "cityscapes"
    (root / "gtFine").mkdir(parents=True)
    photos = root / "leftImg8bit" / "val" / "bonn"
    photos.mkdir(parents=True)
    content = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        name = f"bonn_000000_{image['id']:06d}"
        (coco / "val2017" / image["file_name"]).rename(photos / f"{name}_leftImg8bit.png")
        image.update(id=name, file_name=f"{name}_gtFine_leftImg8bit.png")
        annotation["image_id"] = name
    (root / "gtFine" / "cityscapes_panoptic_val.json").write_text(json.dumps(content))
    (coco / "annotations" / "panoptic_val2017").rename(root / "gtFine" / "cityscapes_panoptic_val")
    options = ["--cityscapes", str(root), "--output", str(tmp_path / "out")]
    assert run_script("prepare_cityscapes.py", options, monkeypatch) == 0
    for entry in DatasetCatalog.get(register_pseudo_dataset(tmp_path / "out")):
        assert Path(entry["file_name"]).is_file()
        assert Path(entry["pan_seg_file_name"]).is_file()


def edit(coco, change):
    file = coco / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def convert(coco, output, *options):
    return ["--coco", str(coco), "--output", str(output), *options], output / "panoptic.json"


def test_pngs_in_subfolders_and_stale_areas(coco, tmp_path, monkeypatch, caplog):
    pngs = coco / "annotations" / "panoptic_val2017"
    (pngs / "cam0").mkdir()
    (pngs / "1.png").rename(pngs / "cam0" / "1.png")

    def change(content):
        content["annotations"][0]["file_name"] = "cam0\\1.png"
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment.update(area=1, bbox=[0, 0, 1, 1])
        content["annotations"][1]["segments_info"].append({"id": 900, "category_id": 5})
        content["info"]["panoptic_root"] = "elsewhere"

    edit(coco, change)
    for options in ([], ["--supercategories"]):
        arguments, file = convert(coco, tmp_path / f"out{len(options)}", *options)
        assert run_script("prepare_coco.py", arguments, monkeypatch) == 0
        dataset = read_panoptic(file)
        for photo in dataset.photos:
            ids = dataset.read_ids(photo)
            assert [s.stated[0] for s in photo.segments] == [(ids == s.id).sum() for s in photo.segments]
        assert (tmp_path / "out1" / "panoptic" / "cam0" / "1.png").is_file() == bool(options)
    assert re.search(r"'area' or 'bbox' of \d+ of \d+ segments disagrees with the pixels", caplog.text)
    assert "1 of" in caplog.text
    assert "have no pixel in the PNG" in caplog.text


def reverse_channels(coco):
    for path in (coco / "annotations" / "panoptic_val2017").iterdir():
        Image.fromarray(np.asarray(Image.open(path))[..., ::-1]).save(path)


def to_grey(coco):
    for path in (coco / "annotations" / "panoptic_val2017").iterdir():
        Image.open(path).convert("L").save(path)


def change_segment(**values):
    return lambda coco: edit(coco, lambda content: content["annotations"][0]["segments_info"][0].update(values))


def all_of_one_supercategory(name):
    return lambda coco: edit(coco, lambda content: [c.update(supercategory=name) for c in content["categories"]])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (reverse_channels, "1.png holds segment id 65536, which the JSON does not list; none of its ids is listed"),
        (to_grey, "its mode is L, not RGB"),
        (change_segment(id=0), "segment 0 of 1.png has the 'id' 0, not from 1"),
        (change_segment(id=77), "which the JSON does not list"),
        (change_segment(category_id=999), "segment 1 of 1.png has category_id 999, not in 'categories'"),
        (lambda coco: edit(coco, lambda c: c["annotations"][0].update(file_name="../../../x.png")), "leads out of"),
        (lambda coco: edit(coco, lambda c: c["annotations"][0].update(file_name="/tmp/x.png")), "leads out of"),
        (all_of_one_supercategory("none"), "has no supercategory; leave --supercategories out"),
        (all_of_one_supercategory("Default"), "has no supercategory; leave --supercategories out"),
        (all_of_one_supercategory("x"), "have the one supercategory 'x'; leave --supercategories out"),
        (lambda coco: edit(coco, lambda content: content["images"][1].update(id=1)), "image id 1 is given twice"),
        (lambda coco: edit(coco, lambda content: content.update(categories=None)), "no list 'categories'"),
    ],
)
def test_contradictions_are_one_line(coco, tmp_path, monkeypatch, capsys, damage, words):
    before = sorted(tmp_path.rglob("*.png"))
    damage(coco)
    arguments, file = convert(coco, tmp_path / "deep" / "out", "--supercategories")
    assert run_script("prepare_coco.py", arguments, monkeypatch) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not file.exists()
    outside = [path for path in sorted(tmp_path.rglob("*.png")) if not path.is_relative_to(file.parent)]
    assert outside == before


def test_photos_that_are_not_there_are_counted(coco, tmp_path, monkeypatch, caplog):
    (coco / "val2017" / "1.png").unlink()
    arguments, _ = convert(coco, tmp_path / "out")
    assert run_script("prepare_coco.py", arguments, monkeypatch) == 0
    assert re.search(r"1 of 3 photos are not in .*val2017, such as '1\.png'", caplog.text)


def test_semantic_pngs_are_what_detectron2s_separated_sets_take(tmp_path):
    from detectron2.data.datasets import register_coco_panoptic_separated

    root = write_dataset(tmp_path / "labels", photos=3, num_things=2, num_stuff=2)
    for path in (root / "images").glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
    content = json.loads((root / "panoptic.json").read_text())
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace(".png", ".jpg")
    (root / "panoptic.json").write_text(json.dumps(content))
    export_semantic(root, root / "sem_seg")
    things = [category for category in content["categories"] if category["isthing"]]
    (root / "instances.json").write_text(json.dumps({**content, "categories": things, "annotations": []}))
    stuff = {"stuff_classes": ["things", "a", "b"], "stuff_dataset_id_to_contiguous_id": {0: 0, 3: 1, 4: 2}}
    paths = [root / name for name in ("images", "panoptic", "panoptic.json", "sem_seg", "instances.json")]
    register_coco_panoptic_separated("exported", stuff, *map(str, paths))
    dicts = DatasetCatalog.get("exported_separated")
    dataset = read_panoptic(root)
    assert len(dicts) == 3
    for entry, photo in zip(dicts, dataset.photos, strict=True):
        pixels = np.array(Image.open(entry["sem_seg_file_name"]))
        ids = dataset.read_ids(photo)
        assert (pixels[ids == 0] == 255).all()
        for segment in photo.segments:
            assert set(pixels[ids == segment.id]) == {0 if segment.isthing else segment.category_id - 2}


def test_semantic_pngs_of_every_class(tmp_path, monkeypatch):
    root = write_dataset(tmp_path / "labels", photos=2, num_things=300, num_stuff=2)
    options = ["--labels", str(root), "--output", str(tmp_path / "classes"), "--every-class"]
    assert run_script("export_semantic.py", options, monkeypatch) == 0
    dataset = read_panoptic(root)
    for photo in dataset.photos:
        pixels = np.array(Image.open(tmp_path / "classes" / Path(photo.file_name).with_suffix(".png")))
        expected = np.zeros_like(pixels)
        for segment in photo.segments:
            expected[dataset.read_ids(photo) == segment.id] = segment.category_id
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.max() > 255


def test_photos_that_would_share_a_semantic_png_are_refused(tmp_path):
    root = write_dataset(tmp_path / "labels", photos=2)
    content = json.loads((root / "panoptic.json").read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"].replace(".png", ".jpg")
    (root / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="would share a name"):
        export_semantic(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_with_ids_that_are_not_listed_is_not_exported(tmp_path):
    root = write_dataset(tmp_path / "labels", photos=1)
    content = json.loads((root / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"].pop()
    (root / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="which the JSON does not list"):
        export_semantic(root, tmp_path / "out")


def test_a_conversion_that_fails_leaves_the_one_before(coco, tmp_path, monkeypatch, capsys):
    options = ["--coco", str(coco), "--output", str(tmp_path / "out"), "--supercategories"]
    assert run_script("prepare_coco.py", options, monkeypatch) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    *good, bad = sorted((coco / "annotations" / "panoptic_val2017").rglob("*.png"))
    for path in good:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    bad.write_bytes(b"")
    assert run_script("prepare_coco.py", options, monkeypatch) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
