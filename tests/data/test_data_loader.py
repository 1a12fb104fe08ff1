"""Batches depend on the seed and the step, and on nothing else."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_panoptic import read_json, write_dataset, write_json

from u2seg.data.datasets import register_datasets
from u2seg.data.loader import (
    BatchSampler,
    build_seeded_loader,
    build_train_loader,
    seeded,
    training_dicts,
)
from u2seg.engine.config import load_config
from u2seg.errors import DataError, UsageError


def first(sampler, count):
    """The first ``count`` batches of the stream."""
    stream, size = iter(sampler), sampler.batch_size // sampler.world_size
    return [list(itertools.islice(stream, size)) for _ in range(count)]


def test_epochs_are_whole_and_shuffled():
    drawn = [index for batch in first(BatchSampler(10, 5, seed=3), 6) for index, _ in batch]
    epochs = [drawn[:10], drawn[10:20], drawn[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("start", [1, 7, 30])
def test_a_later_start_goes_on_where_an_unbroken_run_is(start):
    portrait = np.random.default_rng(0).random(17) < 0.3
    unbroken = BatchSampler(17, 4, seed=1, is_portrait=portrait)
    resumed = BatchSampler(17, 4, seed=1, is_portrait=portrait)
    resumed.start_batch = start
    assert first(unbroken, start + 5)[start:] == first(resumed, 5)


def test_a_batch_has_one_orientation():
    portrait = np.random.default_rng(0).random(20) < 0.4
    for batch in first(BatchSampler(20, 4, is_portrait=portrait), 50):
        assert len({portrait[index] for index, _ in batch}) == 1


def test_processes_share_the_batches_of_one():
    whole = first(BatchSampler(9, 4, seed=2), 8)
    shares = [first(BatchSampler(9, 4, seed=2, rank=rank, world_size=2), 8) for rank in range(2)]
    for batch, left, right in zip(whole, *shares, strict=True):
        assert sorted(left + right) == sorted(batch)


def test_seeded_puts_generators_back():
    np.random.seed(5)
    wanted = np.random.rand()
    np.random.seed(5)
    with seeded(1, 2):
        one = np.random.rand()
    assert np.random.rand() == wanted
    with seeded(1, 2):
        assert np.random.rand() == one


@pytest.fixture
def cfg(tmp_path):
    cfg = load_config(
        options=[
            *("DATASETS.TRAIN", str(write_dataset(tmp_path / "labels")), "SOLVER.IMS_PER_BATCH", "2"),
            *("INPUT.MIN_SIZE_TRAIN", "(32, 40, 48)", "DATALOADER.NUM_WORKERS", "0"),
        ]
    )
    register_datasets(cfg)
    return cfg


def batches(cfg, count, start=0):
    loader = build_train_loader(cfg)
    loader.sampler.start_batch = start
    return list(itertools.islice(loader, count))


def assert_equal(left, right):
    for a, b in zip(itertools.chain(*left), itertools.chain(*right), strict=True):
        assert a["file_name"] == b["file_name"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["sem_seg"], b["sem_seg"])
        assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)


def test_batches_do_not_depend_on_workers_or_the_start(cfg):
    unbroken = batches(cfg, 6)
    assert_equal(unbroken[3:], batches(cfg, 3, start=3))
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal(unbroken, batches(cfg, 6))


def test_copy_paste_does_not_depend_on_workers_either(cfg):
    plain = batches(cfg, 4)
    cfg.INPUT.COPY_PASTE.ENABLED = True
    pasted = batches(cfg, 4)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal(pasted, batches(cfg, 4))
    assert sum(len(s["instances"]) for b in pasted for s in b) > sum(len(s["instances"]) for b in plain for s in b)


def test_a_set_of_ones_own(cfg):
    """What a trainer of another kind of sample builds on."""

    def mapper(entry):
        return {**entry, "draw": np.random.rand()}

    def draws(workers):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = build_seeded_loader([{"entry": index} for index in range(5)], mapper, cfg)
        assert loader.mapper is mapper
        return [[(s["entry"], s["draw"]) for s in batch] for batch in itertools.islice(loader, 6)]

    here = draws(0)
    assert here == draws(2)
    assert sorted(entry for batch in here[:5] for entry, _ in batch) == sorted([*range(5), *range(5)])
    assert len({draw for batch in here for _, draw in batch}) == 12


def test_making_an_iterator_draws_nothing_from_the_models_generator(cfg):
    loader = build_train_loader(cfg)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(iter(loader))
    assert torch.equal(torch.rand(1), expected)


def test_photos_without_segments_are_left_out(cfg, caplog):
    root = Path(cfg.DATASETS.TRAIN[0].removeprefix("pseudo://"))
    content = read_json(root)
    content["annotations"][0]["segments_info"] = []
    write_json(root, content)
    with caplog.at_level("WARNING"):
        assert len(training_dicts(cfg)) == 3
    assert "1 of 4 photos have no segment" in caplog.text
    for annotation in content["annotations"]:
        annotation["segments_info"] = []
    write_json(root, content)
    with pytest.raises(DataError, match="4 photos, but none with a segment"):
        training_dicts(cfg)
    content["annotations"] = []
    write_json(root, content)
    with pytest.raises(DataError, match="0 photos, but none with a segment"):
        training_dicts(cfg)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("INPUT.DATASET_MAPPER_NAME", "U2SegDatasetMaper", "Did you mean 'U2SegDatasetMapper'"),
        ("SOLVER.IMS_PER_BATCH", 0, "can't be shared"),
        ("DATALOADER.SAMPLER_TRAIN", "Other", "must be TrainingSampler"),
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
    ],
)
def test_bad_settings(cfg, key, value, words):
    cfg.merge_from_list([key, value])
    with pytest.raises(UsageError, match=words):
        build_train_loader(cfg)


def repaint(cfg, function):
    for path in sorted((Path(cfg.DATASETS.TRAIN[0].removeprefix("pseudo://")) / "panoptic").iterdir()):
        Image.fromarray(function(np.asarray(Image.open(path)))).save(path)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda rgb: rgb[..., ::-1], r"1\.png holds segment id 65536, .* none of its ids is listed"),
        (lambda rgb: rgb[..., 0], "its mode is L, not RGB"),
        (lambda rgb: rgb[:-1], r"1\.png has 64 x 47 pixels \(width x height\), the dataset says 64 x 48"),
        (
            lambda rgb: np.where(rgb == 1, np.uint8(99), rgb),
            r"1\.png holds segment id 99, which the JSON does not list",
        ),
        (lambda rgb: rgb * np.uint8(0), r"\d+ of \d+ segments of 4 photos have no pixel in their PNG, so nothing"),
    ],
)
def test_labels_that_the_list_does_not_know_stop_training(cfg, function, words):
    repaint(cfg, function)
    with pytest.raises(DataError, match=words):
        build_train_loader(cfg)


def test_segments_without_a_pixel_are_counted(cfg, caplog):
    repaint(cfg, lambda rgb: rgb * (rgb != 1))
    build_train_loader(cfg)
    assert re.search(r"4 of \d+ segments of 4 photos have no pixel in their PNG", caplog.text)


def test_training_stops_where_the_first_batches_hold_no_labelled_pixel(cfg):
    def mapper(entry):
        return {"sem_seg": torch.full((2, 2), 255)}

    with pytest.raises(DataError, match="first 20 batches hold no labelled pixel"):
        list(itertools.islice(build_seeded_loader([{}] * 5, mapper, cfg), 30))

    def labelled_later(entry):
        return {"sem_seg": torch.full((2, 2), 255 if entry["later"] else 1)}

    dicts = [{"later": index > 0} for index in range(10)]
    assert len(list(itertools.islice(build_seeded_loader(dicts, labelled_later, cfg), 30))) == 30


def test_a_failing_mapper_names_the_photo(cfg):
    def mapper(entry):
        raise ZeroDivisionError("division by zero")

    words = r"photo a\.jpg: dataset mapper mapper of \w+: ZeroDivisionError: division by zero \(.*_loader\.py:\d+\)"
    with pytest.raises(DataError, match=words):
        next(iter(build_seeded_loader([{"file_name": "a.jpg"}], mapper, cfg)))
