"""Layers, marks and crops."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from u2seg.report.draw import DIMMED, HATCHED, Region, contours, draw_crop, draw_layer, fit

REGIONS = [Region(index, (40 * index, 10, 200), f"thing_{index}", 0.1 * index, 0.5) for index in (1, 2, 3)]
MAPS = arrays.arrays(
    np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(HATCHED, len(REGIONS))
)


def slow_contours(labels):
    height, width = labels.shape
    edge = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                if 0 <= y + dy < height and 0 <= x + dx < width and labels[y, x] != labels[y + dy, x + dx]:
                    edge[y, x] = True
    return edge


@given(MAPS)
def test_contours_agree_with_the_slow_way(labels):
    assert np.array_equal(contours(labels), slow_contours(labels))


@settings(deadline=None)
@given(MAPS)
def test_a_layer_shows_each_region_in_its_colour_and_names_it_once(labels):
    layer = draw_layer(labels, REGIONS, 320)
    pixels = np.asarray(layer.to_rgba())
    inside = (labels > 0) & ~slow_contours(labels)
    for number, region in enumerate(REGIONS, start=1):
        assert (pixels[inside & (labels == number)][:, :3] == region.color).all()
    present = {REGIONS[number - 1].category_id for number in np.unique(labels[labels > 0])}
    assert {mark.category_id for mark in layer.marks} == present
    assert len(layer.marks) == len(present)
    assert all(0 <= mark.x <= 1 and 0 <= mark.y <= 1 for mark in layer.marks)


def test_a_mark_stands_inside_its_region_far_from_the_border():
    labels = np.full((240, 320), DIMMED, np.int32)
    labels[100:200, 100:300] = 1
    (mark,) = draw_layer(labels, REGIONS[:1], 320).marks
    assert 0.55 < mark.y < 0.7
    assert 0.4 < mark.x < 0.85


def test_names_that_would_cover_each_other_are_crowded():
    labels = np.full((100, 100), DIMMED, np.int32)
    labels[40:50, 40:60], labels[50:58, 40:60] = 1, 2
    marks = draw_layer(labels, REGIONS[:2], 100).marks
    assert sorted(mark.crowded for mark in marks) == [False, True]


@pytest.mark.parametrize("colors", [3, 200])
def test_a_saved_layer_is_read_back_equal(colors, tmp_path):
    labels = np.arange(colors, dtype=np.int32).repeat(36).reshape(-1, 6) + 1
    regions = [Region(i, (i, 255 - i, 7), str(i), 0.1, 1.0) for i in range(colors)]
    layer = draw_layer(labels, regions, 320)
    layer.save(str(tmp_path / "layer.png"))
    with Image.open(tmp_path / "layer.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGBA")), np.asarray(layer.to_rgba()))


def test_void_is_hatched_and_the_rest_dimmed():
    labels = np.full((40, 40), DIMMED, np.int32)
    labels[:, 20:] = HATCHED
    pixels = np.asarray(draw_layer(labels, [], 320).to_rgba())
    assert len(np.unique(pixels[:, :20].reshape(-1, 4), axis=0)) == 1
    assert len(np.unique(pixels[:, 20:].reshape(-1, 4), axis=0)) == 2


@given(st.integers(1, 20000), st.integers(1, 20000))
def test_fitted_sizes_are_never_empty(width, height):
    w, h = fit(width, height, 320)
    assert max(w, h) == 320
    assert min(w, h) >= 1


@pytest.mark.parametrize("shape", [(1, 1), (30, 2000), (50, 80), (300, 20)])
def test_crops_of_any_photo_can_be_written(shape):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (*shape, 3), np.uint8)
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2, shape[1] // 3 :] = True
    crop = draw_crop(photo, mask, 96)
    assert max(crop.size) == 96
    crop.save(io.BytesIO(), "JPEG")


def test_a_crop_keeps_the_segment_and_greys_the_rest():
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[..., 0] = 250
    mask = np.zeros((100, 100), bool)
    mask[30:70, 30:70] = True
    pixels = np.asarray(draw_crop(photo, mask, 100))
    assert pixels[50, 50].tolist() == [250, 0, 0]
    assert len(set(pixels[2, 2].tolist())) == 1
