"""Crops and the cache of their features."""

import numpy as np
import pytest
from PIL import Image

from u2seg.data.stego_cache import DONE, TOO_SMALL, UNREADABLE, CropSettings, cache_directory, fill
from u2seg.data.stego_crops import check_ratio, five_crops
from u2seg.errors import DataError, UsageError
from u2seg.images import find_photos

SETTINGS = CropSettings(ratio=0.5, min_side=16, keep_features=True)


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


def test_five_crops_are_corners_and_centre():
    image = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    crops = five_crops(image, 0.5, 1)
    expected = [image[:4, :6], image[:4, 6:], image[4:, :6], image[4:, 6:], image[2:6, 3:9]]
    assert all(np.array_equal(a, b) for a, b in zip(crops, expected, strict=True))


def test_a_photo_smaller_than_a_crop_is_told():
    with pytest.raises(DataError, match=r"40 x 20 pixels .* 20 x 10, and needs 16 \(STEGO.MIN_CROP\)"):
        five_crops(np.zeros((20, 40, 3), np.uint8), 0.5, 16)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(UsageError, match="CROP_RATIO"):
        check_ratio(ratio)


def test_the_cache_holds_what_the_extractor_gives(folder, tmp_path):
    photos = find_photos(str(folder))
    found = fill(tmp_path / "cache", photos, Colours(), SETTINGS)
    assert found.usable.tolist() == list(range(15))
    image = np.asarray(Image.open(folder / "b.png"))
    expected = np.stack(Colours().extract(five_crops(image, 0.5, 16)))
    assert np.array_equal(found.features[5:10], expected.astype(np.float16))
    means = expected.mean(axis=(2, 3))
    assert np.allclose(found.pooled[5:10], means / np.linalg.norm(means, axis=1, keepdims=True))


def test_a_full_cache_runs_no_network_and_a_broken_run_goes_on(folder, tmp_path):
    photos, extractor = find_photos(str(folder)), Colours()
    fill(tmp_path / "cache", photos, extractor, SETTINGS)
    calls = extractor.calls
    fill(tmp_path / "cache", photos, extractor, SETTINGS)
    assert extractor.calls == calls
    status = np.load(tmp_path / "cache" / "status.npy", mmap_mode="r+")
    status[5:10] = 0
    status.flush()
    fill(tmp_path / "cache", photos, extractor, SETTINGS)
    assert extractor.calls == calls + 1


def test_processes_share_the_work(folder, tmp_path):
    photos = find_photos(str(folder))
    one = fill(tmp_path / "one", photos, Colours(), SETTINGS)
    fill(tmp_path / "two", photos, Colours(), SETTINGS, rank=0, world_size=2)
    two = fill(tmp_path / "two", photos, Colours(), SETTINGS, rank=1, world_size=2)
    assert np.array_equal(one.features, two.features)
    assert np.array_equal(one.pooled, two.pooled)


def test_bad_photos_are_left_out_and_counted(folder, tmp_path, caplog):
    (folder / "d.png").write_bytes(b"not a photo")
    Image.new("RGB", (20, 20)).save(folder / "e.png")
    found = fill(tmp_path / "cache", find_photos(str(folder)), Colours(), SETTINGS)
    assert (found.status[15:20] == UNREADABLE).all()
    assert (found.status[20:25] == TOO_SMALL).all()
    assert (found.status[:15] == DONE).all()
    assert "1 photos that can't be read, 1 too small" in caplog.text


def test_no_usable_photo_is_told(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "e.png")
    with pytest.raises(DataError, match="none of 1 photos can be used"):
        fill(tmp_path / "cache", find_photos(str(tmp_path / "photos")), Colours(), SETTINGS)


def test_other_settings_have_another_directory(folder, tmp_path):
    photos = find_photos(str(folder))
    one = cache_directory(tmp_path, photos, SETTINGS, {"model": "a"})
    assert one == cache_directory(tmp_path, photos, SETTINGS, {"model": "a"})
    assert one != cache_directory(tmp_path, photos, SETTINGS, {"model": "b"})
    assert one != cache_directory(tmp_path, photos, CropSettings(0.6, 16, True), {"model": "a"})


def test_means_alone_can_be_kept_and_features_added_later(folder, tmp_path):
    photos = find_photos(str(folder))
    means = fill(tmp_path / "cache", photos, Colours(), CropSettings(0.5, 16, False))
    assert means.features is None
    both = fill(tmp_path / "cache", photos, Colours(), SETTINGS)
    assert both.features.shape == (15, 3, 4, 4)
    assert float(np.abs(both.features[5:10]).sum()) > 0
