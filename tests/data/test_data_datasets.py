"""Datasets named by their path: registration, contents, class counts, errors."""

import multiprocessing

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from synthetic_panoptic import read_json, write_dataset, write_json

from u2seg.data.datasets import load_pseudo_dataset, register_datasets, register_pseudo_dataset, set_class_counts
from u2seg.engine.config import get_cfg, load_config
from u2seg.errors import DataError, UsageError
from u2seg.structures import LabelSpace

FROM_DATA = ["MODEL.ROI_HEADS.NUM_CLASSES", "0", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "0"]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "labels")


def test_registers_once_and_by_any_spelling(dataset, monkeypatch):
    name = register_pseudo_dataset(dataset)
    assert register_pseudo_dataset(str(dataset)) == name
    assert register_pseudo_dataset(name) == name
    monkeypatch.chdir(dataset.parent)
    assert register_pseudo_dataset("labels") == name
    assert DatasetCatalog.list().count(name) == 1


def test_a_changed_file_counts(dataset):
    name = register_pseudo_dataset(dataset)
    content = read_json(dataset)
    content["categories"] = LabelSpace(7, 2).categories()
    content["annotations"] = [content["annotations"][0] | {"segments_info": []}]
    write_json(dataset, content)
    register_pseudo_dataset(dataset)
    assert MetadataCatalog.get(name).label_space == LabelSpace(7, 2)
    assert len(DatasetCatalog.get(name)) == 1


def test_dicts_and_metadata(dataset):
    name = register_pseudo_dataset(dataset)
    first = DatasetCatalog.get(name)[0]
    written = read_json(dataset)["annotations"][0]["segments_info"]
    assert first["file_name"] == str(dataset / "images" / "1.png")
    assert first["pan_seg_file_name"] == str(dataset / "panoptic" / "1.png")
    assert (first["height"], first["width"], first["image_id"]) == (48, 64, 1)
    for ours, theirs in zip(first["segments_info"], written, strict=True):
        category = theirs["category_id"]
        assert ours["isthing"] == (category <= 3)
        assert ours["id"] == theirs["id"]
        assert ours["category_id"] == (category - 1 if category <= 3 else category - 3)
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["1", "2", "3"]
    assert metadata.stuff_classes == ["things", "4", "5"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
    assert metadata.stuff_dataset_id_to_contiguous_id == {0: 0, 4: 1, 5: 2}


def test_ordinary_ids_in_any_order(dataset):
    content = read_json(dataset)
    new = {1: 90, 2: 7, 3: 200, 4: 1, 5: 100}
    for category in content["categories"]:
        category["id"] = new[category["id"]]
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = new[segment["category_id"]]
    write_json(dataset, content)
    metadata = MetadataCatalog.get(register_pseudo_dataset(dataset))
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 90: 1, 200: 2}
    assert metadata.stuff_dataset_id_to_contiguous_id == {0: 0, 1: 1, 100: 2}


def test_works_in_a_spawned_process(dataset):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(register_pseudo_dataset, (str(dataset),)) == register_pseudo_dataset(dataset)


def test_config_names_a_path(dataset):
    for value in (str(dataset), f"('{dataset}',)", f'["{dataset}"]', f"pseudo://{dataset}"):
        cfg = load_config(options=["DATASETS.TRAIN", value, *FROM_DATA])
        register_datasets(cfg)
        set_class_counts(cfg)
        assert (register_pseudo_dataset(dataset),) == cfg.DATASETS.TRAIN
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
        assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3


def test_yaml_names_a_path(dataset, tmp_path):
    (tmp_path / "a.yaml").write_text(f"DATASETS:\n  TRAIN: '{dataset}'\n")
    assert (str(dataset),) == load_config(str(tmp_path / "a.yaml")).DATASETS.TRAIN


@pytest.mark.parametrize("key", ["MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"])
def test_contradicting_counts_are_refused(dataset, key):
    cfg = load_config(options=["DATASETS.TRAIN", str(dataset), *FROM_DATA, key, "300"])
    register_datasets(cfg)
    with pytest.raises(UsageError, match=rf"{key} is 300, but .*labels has 3 .*0 takes the count"):
        set_class_counts(cfg)


def test_two_training_sets_must_agree(dataset, tmp_path):
    other = write_dataset(tmp_path / "other", num_things=4)
    cfg = load_config(options=["DATASETS.TRAIN", f"('{dataset}', '{other}')", *FROM_DATA])
    register_datasets(cfg)
    with pytest.raises(UsageError, match=r"NUM_CLASSES is 3, but .*other has 4"):
        set_class_counts(cfg)


def test_a_name_of_detectron2s_can_be_tested_on_and_not_be_trained_on():
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("coco_2017_val_panoptic",)
    register_datasets(cfg)
    assert cfg.DATASETS.TEST == ("coco_2017_val_panoptic",)
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    with pytest.raises(
        UsageError, match=r"'coco_2017_train_panoptic'.* u2seg dataset .*datasets/prepare_coco\.py"
    ) as e:
        register_datasets(cfg)
    assert "\n" not in str(e.value)


def test_a_set_that_a_plugin_registered_can_be_trained_on(dataset, request):
    """It says its label space, and its dicts have contiguous ids, as those of `load_pseudo_dataset`."""
    DatasetCatalog.register("plugins_own", lambda: load_pseudo_dataset(dataset))
    request.addfinalizer(lambda: DatasetCatalog.remove("plugins_own"))
    MetadataCatalog.get("plugins_own").label_space = LabelSpace(3, 2)
    cfg = load_config(options=["DATASETS.TRAIN", "plugins_own", *FROM_DATA])
    register_datasets(cfg)
    set_class_counts(cfg)
    assert (cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (("plugins_own",), 3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda root: (root / "panoptic.json").unlink(), UsageError, "holds no panoptic.json"),
        (lambda root: (root / "panoptic.json").write_text("{"), DataError, "can't be read as JSON"),
        (lambda root: (root / "panoptic.json").write_text("[]"), DataError, "can't be read as JSON"),
        (lambda root: (root / "panoptic.json").write_text('{"images": []}'), DataError, "no list 'annotations'"),
    ],
)
def test_bad_directories(dataset, change, error, words):
    change(dataset)
    with pytest.raises(error, match=words):
        register_pseudo_dataset(dataset)


def test_wrong_path_names_the_key():
    cfg = load_config(options=["DATASETS.TEST", "no/such/place"])
    with pytest.raises(
        UsageError, match=r"DATASETS.TEST: no registered dataset is named 'no/such/place'.*does not exist"
    ):
        register_datasets(cfg)


def test_a_folder_may_be_called_like_a_number(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    dataset.rename("2024")
    (tmp_path / "a.yaml").write_text("DATASETS:\n  TRAIN: [2024]\n  TEST: [2025]\n")
    cfg = load_config(str(tmp_path / "a.yaml"))
    with pytest.raises(UsageError, match=r"DATASETS\.TEST: no registered dataset is named '2025'"):
        register_datasets(cfg)
    assert cfg.DATASETS.TRAIN[0].endswith("/2024")


def test_bad_annotation_is_named(dataset):
    content = read_json(dataset)
    content["annotations"][1]["segments_info"][0]["category_id"] = 99
    write_json(dataset, content)
    with pytest.raises(DataError, match=r"segment 1 of 2.png has category_id 99"):
        DatasetCatalog.get(register_pseudo_dataset(dataset))


def test_an_empty_set_is_nothing_to_test_on(dataset):
    write_json(dataset, read_json(dataset) | {"images": [], "annotations": []})
    with pytest.raises(DataError, match=r"DATASETS.TEST: .*labels has no photo with a label"):
        register_datasets(load_config(options=["DATASETS.TEST", str(dataset)]))
