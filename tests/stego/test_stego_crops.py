"""Crops and the cache of their features."""

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import DataError
from u2seg.images import find_photos
from u2seg.stego import crops
from u2seg.stego.crops import PLACES, CropSet, crop


class Colours:
    """Features that are the mean colours of a 4 x 4 grid; counts its calls."""

    dim, stride = 3, 4
    info = {"model": "colours"}  # noqa: RUF012

    def __init__(self):
        self.calls = 0

    def extract(self, images):
        self.calls += 1
        small = [Image.fromarray(image).resize((4, 4), Image.Resampling.BOX) for image in images]
        return [np.asarray(image, np.float32).transpose(2, 0, 1) for image in small]


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(photos / f"{name}.png")
    return photos


def five_crops(image, min_side=1):
    return [crop(image, place, 0.5, min_side) for place in range(len(PLACES))]


def crops_of(folder, root, extractor=None, **changes):
    settings = {"info": {"model": "colours"}, "ratio": 0.5, "min_side": 16, "keep_features": True, **changes}
    return CropSet(root=root, photos=find_photos(str(folder)), extractor=extractor or Colours(), **settings)


def filled(cache):
    cache.fill()
    return cache.indices.tolist()


def test_five_crops_are_corners_and_centre():
    image = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    expected = [image[:4, :6], image[:4, 6:], image[4:, :6], image[4:, 6:], image[2:6, 3:9]]
    assert all(np.array_equal(a, b) for a, b in zip(five_crops(image), expected, strict=True))


def test_a_photo_smaller_than_a_crop_is_told():
    with pytest.raises(DataError, match=r"40 x 20 pixels .* 20 x 10, and needs 16 \(STEGO.MIN_CROP\)"):
        five_crops(np.zeros((20, 40, 3), np.uint8), 16)


def test_the_cache_holds_what_the_extractor_gives(folder, tmp_path):
    cache = crops_of(folder, tmp_path)
    assert filled(cache) == list(range(15))
    image = np.asarray(Image.open(folder / "b.png"))
    expected = np.stack(Colours().extract(five_crops(image)))
    assert np.array_equal(cache.array("features")[5:10], expected.astype(np.float16))
    means = expected.mean(axis=(2, 3))
    assert np.allclose(cache.array("pooled")[5:10], means / np.linalg.norm(means, axis=1, keepdims=True))


def test_a_full_cache_runs_no_network_and_a_broken_run_is_resumed(folder, tmp_path):
    extractor = Colours()
    cache = crops_of(folder, tmp_path, extractor)
    cache.fill()
    calls = extractor.calls
    cache.fill()
    assert extractor.calls == calls
    pooled = cache.array("pooled", "r+")
    pooled[5:10] = 0
    pooled.flush()
    cache.fill()
    assert extractor.calls == calls + 1


def test_processes_share_the_work(folder, tmp_path, monkeypatch):
    one, two = crops_of(folder, tmp_path / "one"), crops_of(folder, tmp_path / "two")
    one.fill()
    monkeypatch.setattr(crops.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(crops.comm, "synchronize", lambda: None)
    for rank in range(2):
        monkeypatch.setattr(crops.comm, "get_rank", lambda rank=rank: rank)
        two.fill()
        assert two.array("pooled")[5:10].any() == (rank == 1)
    for name in ("features", "pooled"):
        assert np.array_equal(one.array(name), two.array(name))


def test_bad_photos_are_left_out_and_counted(folder, tmp_path, caplog):
    (folder / "d.png").write_bytes(b"not a photo")
    Image.new("RGB", (20, 20)).save(folder / "e.png")
    cache = crops_of(folder, tmp_path)
    assert filled(cache) == list(range(15))
    assert "left out: 2 photos" in caplog.text
    assert filled(cache) == list(range(15))


def test_a_photo_that_is_gone_is_left_out(folder, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{folder / name}.png\n" for name in ("a", "gone", "b")))
    assert filled(crops_of(tmp_path / "list.txt", tmp_path)) == [*range(5), *range(10, 15)]


def test_no_usable_photo_is_told(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "e.png")
    with pytest.raises(DataError, match="none of 1 photos can be used"):
        crops_of(tmp_path / "photos", tmp_path).fill()


def test_other_settings_have_another_directory(folder, tmp_path):
    changes = [{}, {"info": {"model": "b"}}, {"ratio": 0.6}, {"min_side": 17}, {"keep_features": False}]
    directories = [crops_of(folder, tmp_path, **change).directory for change in changes]
    assert len(set(directories)) == len(changes)
    assert crops_of(folder, tmp_path).directory == directories[0]


def test_means_alone_can_be_kept(folder, tmp_path):
    cache, whole = crops_of(folder, tmp_path, keep_features=False), crops_of(folder, tmp_path)
    assert filled(cache) == filled(whole)
    assert np.array_equal(cache.array("pooled"), whole.array("pooled"))
    assert not (cache.directory / "features.npy").exists()
