"""Things from instances.json: which are chosen, whole and aligned with the photo, pasted as the slow way does."""

import json

import numpy as np
import pytest
from PIL import Image
from synthetic_panoptic import read_json, write_dataset

from u2seg.data.datasets import register_datasets
from u2seg.data.loader import build_train_loader, seeded, training_dicts
from u2seg.data.mapper import build_mapper
from u2seg.data.whole_masks import select
from u2seg.engine.config import load_config
from u2seg.errors import DataError, UsageError
from u2seg.panoptic import instance_entry

SIZE = (48, 64)
BOXES = {
    # name: rows, columns, category_id in the file, score
    "whole": (np.s_[4:40], np.s_[8:56], 2, 0.9),
    "part": (np.s_[10:20], np.s_[10:20], 1, 0.8),
    "beside": (np.s_[30:46], np.s_[50:64], 3, 0.3),
    "unsure": (np.s_[0:5], np.s_[0:5], 1, 0.1),
}
FIXED = ["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MAX_SIZE_TRAIN", "64", "INPUT.FORMAT", "RGB", "SOLVER.IMS_PER_BATCH"]
OPTIONS = [*FIXED, "2", "DATALOADER.NUM_WORKERS", "0", "INPUT.THINGS", "instances"]


def box(name):
    mask = np.zeros(SIZE, bool)
    mask[BOXES[name][:2]] = True
    return mask


def entry(name, **more):
    return instance_entry(box(name), *BOXES[name][2:]) | more


@pytest.fixture
def labels(tmp_path):
    """Four photos; the masks of `BOXES`, the unsure one first, belong to the first, none to the others."""
    root = write_dataset(tmp_path / "labels")
    annotations = [entry(name, id=row, image_id=1) for row, name in enumerate(reversed(BOXES), start=1)]
    write_instances(root, annotations)
    return root


def write_instances(root, annotations):
    content = read_json(root)
    things = [category for category in content["categories"] if category["isthing"]]
    file = {"images": content["images"], "categories": things, "annotations": annotations}
    (root / "instances.json").write_text(json.dumps(file))


def config(labels, *options):
    cfg = load_config(options=[*OPTIONS, "DATASETS.TRAIN", str(labels), *options])
    register_datasets(cfg)
    return cfg


def mapped(labels, *options, seed=0):
    """The sample of the first photo, and its dataset dict."""
    cfg = config(labels, *options)
    first = training_dicts(cfg)[0]
    with seeded(seed):
        return build_mapper(cfg, is_train=True)(first), first


def test_things_are_whole_masks_and_stuff_is_the_labels(labels):
    sample, _ = mapped(labels, "INPUT.RANDOM_FLIP", "none")
    masks = sample["instances"].gt_masks.tensor.numpy()
    assert [mask.tolist() for mask in masks] == [box(name).tolist() for name in BOXES]
    assert sample["instances"].gt_classes.tolist() == [1, 0, 2, 0]
    assert sample["instances"].gt_boxes.tensor[0].tolist() == [8, 4, 56, 40]
    painted, _ = mapped(labels, "INPUT.RANDOM_FLIP", "none", "INPUT.THINGS", "panoptic")
    assert np.array_equal(sample["sem_seg"], painted["sem_seg"])
    assert not {"thing_masks", "segments_info"} & sample.keys()


@pytest.mark.parametrize("size", [24, 96])
@pytest.mark.parametrize("seed", range(4))
def test_masks_go_through_what_the_photo_goes_through(labels, size, seed):
    sizes = ["INPUT.MIN_SIZE_TRAIN", f"({size},)", "INPUT.MAX_SIZE_TRAIN", "999", "INPUT.RANDOM_FLIP", "horizontal"]
    sample, first = mapped(labels, *sizes, seed=seed)
    shape = (size * 64 // 48, size)
    plain = np.array(Image.open(first["file_name"]).resize(shape, Image.Resampling.BILINEAR))
    flipped = not np.array_equal(sample["image"].numpy().transpose(1, 2, 0), plain)
    for mask, name in zip(sample["instances"].gt_masks.tensor.numpy(), BOXES, strict=True):
        resized = np.array(Image.fromarray(box(name)).resize(shape, Image.Resampling.NEAREST))
        assert np.array_equal(mask, resized[:, ::-1] if flipped else resized), name


def test_padding_belongs_to_no_mask(labels):
    jitter = [f"INPUT.LARGE_SCALE_JITTER.{key}" for key in ("ENABLED", "SIZE", "MAX_SCALE")]
    options = zip(jitter, ["True", "96", "0.4"], strict=True)
    sample, _ = mapped(labels, *(word for pair in options for word in pair))
    padding = (sample["image"] == 128).all(dim=0)
    assert padding.any()
    assert not sample["instances"].gt_masks.tensor[:, padding].any()
    assert (sample["sem_seg"][padding] == 255).all()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["whole", "part", "beside", "unsure"]),
        (["INPUT.INSTANCES.MIN_SCORE", "0.3"], ["whole", "part", "beside"]),
        (["INPUT.INSTANCES.MAX_MASKS", "1"], ["whole"]),
        (["INPUT.INSTANCES.MAX_INSIDE", "0.9"], ["whole", "beside", "unsure"]),
        (["INPUT.INSTANCES.MAX_INSIDE", "0.1"], ["whole", "unsure"]),
        (["INPUT.INSTANCES.MAX_INSIDE", "0.9", "INPUT.INSTANCES.MAX_MASKS", "2"], ["whole", "beside"]),
    ],
)
def test_which_masks_are_learnt(labels, options, names):
    sample, _ = mapped(labels, "INPUT.RANDOM_FLIP", "none", *options)
    masks = sample["instances"].gt_masks.tensor.numpy()
    assert [mask.tolist() for mask in masks] == [box(name).tolist() for name in names]


def test_crowds_are_not_learnt(labels):
    write_instances(labels, [entry("part", id=1, image_id=1), entry("whole", id=2, image_id=1, iscrowd=1)])
    assert len(mapped(labels)[0]["instances"]) == 1


def test_crowds_are_left_out_and_equal_scores_keep_their_order():
    entries = [entry("part", iscrowd=1), entry("whole", score=0.5), entry("beside", score=0.5)]
    assert select(entries) == entries[1:]


def test_a_photo_without_masks_is_trained_on_for_its_stuff(labels):
    cfg = config(labels)
    dicts = training_dicts(cfg)
    assert [len(each["thing_masks"]) for each in dicts] == [4, 0, 0, 0]
    sample = build_mapper(cfg, is_train=True)(dicts[1])
    assert len(sample["instances"]) == 0
    assert sample["instances"].gt_masks.tensor.shape == (0, *SIZE)
    assert (sample["sem_seg"] != 255).any()


def test_batches_are_pasted(labels):
    cfg = config(labels, "INPUT.COPY_PASTE.ENABLED", "True")
    counts = {}
    for _, batch in zip(range(6), build_train_loader(cfg), strict=False):
        for sample in batch:
            counts.setdefault(sample["image_id"], set()).add(len(sample["instances"]))
            assert sample["instances"].gt_masks.tensor.any(dim=(1, 2)).all() or not len(sample["instances"])
    assert any(max(numbers) > 0 for photo, numbers in counts.items() if photo != 1)


def test_labels_without_instances_are_refused_in_words(tmp_path):
    root = write_dataset(tmp_path / "labels")
    with pytest.raises(UsageError, match=r"has no instances\.json.*INPUT\.THINGS panoptic"):
        training_dicts(config(root))


def test_a_damaged_mask_is_named(labels):
    write_instances(labels, [entry("whole", id=1, image_id=1) | {"segmentation": {"size": [48, 64]}}])
    with pytest.raises(DataError, match="run-length code"):
        mapped(labels)


def test_another_word_is_refused(labels):
    with pytest.raises(UsageError, match=r"INPUT\.THINGS.*instances.*panoptic"):
        config(labels, "INPUT.THINGS", "masks")
