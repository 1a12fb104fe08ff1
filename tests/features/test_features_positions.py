"""Position tables on another grid."""

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from u2seg.plugins.checks import sample_image
from u2seg.pseudo.features.grids import keep_shape, own_size
from u2seg.pseudo.features.network import resize_positions
from u2seg.pseudo.features.vit import ViTFeatures


@pytest.fixture
def table():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1 + 10 * 10, 8)).astype(np.float32))


@pytest.mark.parametrize("how", ["timm", "dinov2"])
def test_own_grid_changes_nothing(table, how):
    assert resize_positions(table, (10, 10), (10, 10), 1, how) is table


@pytest.mark.parametrize("new", [(6, 6), (7, 4), (13, 20)])
def test_timm_way_is_timms(table, new):
    wanted = resample_abs_pos_embed(table, new, (10, 10), num_prefix_tokens=1)
    torch.testing.assert_close(resize_positions(table, (10, 10), new, 1, "timm"), wanted)


@pytest.mark.parametrize("new", [(6, 6), (7, 4), (13, 20)])
def test_the_two_ways_differ_but_not_in_the_prefix(table, new):
    timm_way = resize_positions(table, (10, 10), new, 1, "timm")
    dino_way = resize_positions(table, (10, 10), new, 1, "dinov2")
    assert timm_way.shape == dino_way.shape == (1, 1 + new[0] * new[1], 8)
    assert torch.equal(timm_way[:, :1], dino_way[:, :1])
    assert (timm_way - dino_way).abs().max() > 0.01


def test_the_offset_is_a_tenth_of_a_cell():
    """A ramp stays a ramp; its slope tells the scale (new + 0.1) / old."""
    ramp = torch.arange(60.0).repeat(60, 1).reshape(1, 3600, 1)
    found = resize_positions(ramp, (60, 60), (90, 90), 0, "dinov2").reshape(90, 90)[45, 6:84]
    slope = np.polyfit(np.arange(6, 84), found.numpy(), 1)[0]
    assert slope == pytest.approx(60 / 90.1, abs=1e-4)
    assert abs(60 / 90.1 - 60 / 90) > 5e-4


def test_features_differ_between_the_ways_only_off_the_own_size(plain_file):
    image = sample_image(50, 50)
    for size, same in ((160, True), (96, False)):
        options = {"model": "test_vit", "weights": str(plain_file), "size": size}
        found = [ViTFeatures(**options, position_resize=how).extract([image])[0] for how in ("timm", "dinov2")]
        assert np.array_equal(*found) == same


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (640, 480), (20000, 30), (30, 20000), (7, 9)])
@pytest.mark.parametrize("most", [(1, 1), (34, 34), (5, 9)])
def test_grids_in_the_photos_shape_never_exceed_the_budget(size, most):
    for grid in (keep_shape(size, most), own_size(size, 14, most)):
        assert min(grid) >= 1
        assert grid[0] * grid[1] <= most[0] * most[1]


def test_a_grid_keeps_the_photos_shape():
    height, width = keep_shape((480, 640), (34, 34))
    assert (height, width) == (29, 39)
