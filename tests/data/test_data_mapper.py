"""The mapper: photo and label stay aligned, targets are exact, bad files are named."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from synthetic_panoptic import write_dataset

from u2seg.data.datasets import register_pseudo_dataset
from u2seg.data.loader import seeded
from u2seg.data.mapper import DATASET_MAPPERS, U2SegDatasetMapper
from u2seg.engine.config import load_config
from u2seg.errors import DataError
from u2seg.panoptic import decode_ids, encode_ids, read_ids

FIXED = ["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MAX_SIZE_TRAIN", "64", "INPUT.FORMAT", "RGB"]


@pytest.fixture
def dicts(tmp_path):
    return DatasetCatalog.get(register_pseudo_dataset(write_dataset(tmp_path / "labels")))


def mapper(*options, is_train=True):
    cfg = load_config(options=[*FIXED, *options])
    return DATASET_MAPPERS.get(cfg.INPUT.DATASET_MAPPER_NAME)(cfg, is_train=is_train)


def naive(entry, image, colours):
    """Check a mapped ``image`` and ``colours`` of its label against the sample."""
    ids = decode_ids(colours)
    sem_seg = np.full(ids.shape, 255)
    masks = []
    for segment in sorted(entry["segments_info"], key=lambda s: s["id"]):
        mask = ids == segment["id"]
        sem_seg[mask] = 0 if segment["isthing"] else segment["category_id"]
        if segment["isthing"] and mask.any():
            masks.append((segment["category_id"], mask))
    return image, sem_seg, masks


def check(sample, expected):
    image, sem_seg, masks = expected
    assert np.array_equal(sample["image"].numpy().transpose(1, 2, 0), image)
    assert np.array_equal(sample["sem_seg"].numpy(), sem_seg)
    things = sample["instances"]
    assert len(things) == len(masks)
    for row, (category, mask) in enumerate(masks):
        assert things.gt_classes[row] == category
        assert np.array_equal(things.gt_masks.tensor[row].numpy(), mask)
        ys, xs = np.nonzero(mask)
        assert things.gt_boxes.tensor[row].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def arrays(entry):
    return np.array(Image.open(entry["file_name"])), encode_ids(read_ids(entry["pan_seg_file_name"]))


def test_is_registered_by_name():
    assert DATASET_MAPPERS.get("U2SegDatasetMapper") is U2SegDatasetMapper


def test_unchanged_photo(dicts):
    for entry in dicts:
        check(mapper("INPUT.RANDOM_FLIP", "none")(entry), naive(entry, *arrays(entry)))


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flips(dicts, flip, axis):
    use = mapper("INPUT.RANDOM_FLIP", flip)
    seen = set()
    for seed in range(12):
        entry = dicts[seed % len(dicts)]
        with seeded(seed):
            sample = use(entry)
        image, colours = arrays(entry)
        flipped = not np.array_equal(sample["image"].numpy().transpose(1, 2, 0), image)
        seen.add(flipped)
        check(sample, naive(entry, *(np.flip(part, axis) if flipped else part for part in (image, colours))))
    assert seen == {True, False}


@pytest.mark.parametrize("size", [24, 30, 96, 131])
def test_scales_pick_ids_and_never_mix_them(dicts, size):
    use = mapper("INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", f"({size},)", "INPUT.MAX_SIZE_TRAIN", "9999")
    for entry in dicts:
        sample = use(entry)
        image, colours = arrays(entry)
        new = sample["sem_seg"].shape[::-1]
        resized = np.array(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))
        # the slow way: each segment's mask resized on its own
        ids, planes = decode_ids(colours), np.zeros((*new[::-1], 3), np.uint8)
        for segment in entry["segments_info"]:
            mask = np.array(Image.fromarray(ids == segment["id"]).resize(new, Image.Resampling.NEAREST))
            assert not planes[mask].any()
            planes[mask, 0] = segment["id"]
        check(sample, naive(entry, resized, planes))


def test_large_scale_jitter(dicts):
    options = ["INPUT.LARGE_SCALE_JITTER.ENABLED", "True", "INPUT.LARGE_SCALE_JITTER.SIZE", "40"]
    use = mapper(*options, "INPUT.RANDOM_FLIP", "none")
    padded = cropped = 0
    for seed in range(20):
        entry = dicts[seed % len(dicts)]
        with seeded(seed):
            sample = use(entry)
        assert sample["image"].shape == (3, 40, 40)
        assert sample["sem_seg"].shape == (40, 40)
        pad = (sample["image"] == 128).all(dim=0)
        padded += bool(pad[-1].all())
        cropped += not pad.any()
        assert (sample["sem_seg"][-1][pad[-1]] == 255).all()
        masks = sample["instances"].gt_masks.tensor
        assert ((sample["sem_seg"] == 0) == masks.any(dim=0)).all()
    assert padded
    assert cropped


def test_testing_gives_the_photo_alone(dicts):
    use = mapper("INPUT.MIN_SIZE_TEST", "24", is_train=False)
    sample = use(dicts[0])
    assert sample["image"].shape == (3, 24, 32)
    assert "instances" not in sample
    assert (sample["height"], sample["width"]) == (48, 64)


def test_format_bgr(dicts):
    rgb = mapper("INPUT.RANDOM_FLIP", "none")(dicts[0])["image"]
    bgr = mapper("INPUT.RANDOM_FLIP", "none", "INPUT.FORMAT", "BGR")(dicts[0])["image"]
    assert np.array_equal(rgb.flip(0), bgr)


def test_exif_turned_photo(dicts):
    entry = dicts[0]
    turned = Image.open(entry["file_name"]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees counter-clockwise to see it upright
    path = entry["file_name"].replace("1.png", "turned.png")
    turned.save(path, exif=exif)
    sample = mapper("INPUT.RANDOM_FLIP", "none")({**entry, "file_name": path})
    check(sample, naive(entry, *arrays(entry)))


def test_dict_is_left_as_it_is(dicts):
    before = {**dicts[0], "segments_info": [dict(s) for s in dicts[0]["segments_info"]]}
    mapper()(dicts[0])
    assert dicts[0] == before


def test_mix_pastes_and_relabels(dicts):
    use = mapper("INPUT.COPY_PASTE.ENABLED", "True", "INPUT.RANDOM_FLIP", "none")
    plain = [use(entry) for entry in dicts]
    mixed = use.mix(plain, np.random.default_rng(0))
    assert any(len(a["instances"]) > len(b["instances"]) for a, b in zip(mixed, plain, strict=True))
    for sample, entry in zip(mixed, dicts, strict=True):
        assert sample["file_name"] == entry["file_name"]
        masks = sample["instances"].gt_masks.tensor
        assert (masks.sum(dim=0) <= 1).all()
        assert ((sample["sem_seg"] == 0) == masks.any(dim=0)).all()
    assert use.mix(plain[:1], np.random.default_rng(0)) == plain[:1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: {"file_name": e["file_name"] + "x"}, r"photo .*1\.pngx"),
        (lambda e: {"height": 12}, r"photo .*1\.png: .* got \(64, 48\), expect \(64, 12\)"),
        (lambda e: {"pan_seg_file_name": e["pan_seg_file_name"] + "x"}, r"there is no file .*1\.pngx"),
    ],
)
def test_bad_files_are_named(dicts, change, words):
    with pytest.raises(DataError, match=words):
        mapper()({**dicts[0], **change(dicts[0])})


def test_damaged_or_wrong_label_is_named(dicts):
    path = dicts[0]["pan_seg_file_name"]
    Image.new("RGB", (10, 11)).save(path)
    with pytest.raises(DataError, match=r"label .*1\.png has 10 x 11 pixels .* its photo has 64 x 48"):
        mapper()(dicts[0])
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"1\.png can't be read"):
        mapper()(dicts[0])


def test_an_unlisted_segment_is_void_and_said(dicts, caplog):
    entry = {**dicts[0], "segments_info": dicts[0]["segments_info"][1:]}
    image, colours = arrays(dicts[0])
    check(mapper("INPUT.RANDOM_FLIP", "none")(entry), naive(entry, image, colours))
    number = dicts[0]["segments_info"][0]["id"]
    assert f"1.png holds segment id {number}, which is not listed; its pixels are void" in caplog.text


def test_pad_of_a_crop_is_no_unlisted_segment(dicts, caplog):
    jitter = ["INPUT.LARGE_SCALE_JITTER.ENABLED", "True", "INPUT.LARGE_SCALE_JITTER.SIZE", "128"]
    use = mapper(*jitter, "INPUT.LARGE_SCALE_JITTER.MAX_SCALE", "0.2")
    assert (use(dicts[0])["sem_seg"] == 255).any()
    assert not caplog.text


@pytest.mark.parametrize("size", [(2, 2200), (2200, 2)])
def test_a_strip_keeps_a_pixel_of_its_shorter_side(tmp_path, size):
    root = write_dataset(tmp_path / "labels", photos=1, height=size[0], width=size[1], things=0)
    (entry,) = DatasetCatalog.get(register_pseudo_dataset(root))
    jitter = ["INPUT.LARGE_SCALE_JITTER.ENABLED", "True", "INPUT.LARGE_SCALE_JITTER.SIZE", "64"]
    assert mapper(*jitter)(entry)["image"].shape == (3, 64, 64)
    assert min(mapper("INPUT.MAX_SIZE_TRAIN", "100")(entry)["image"].shape[1:]) == 1
