"""Grids of patches for photos of any shape."""

import pytest

from u2seg.pseudo.features.models import own_size


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (640, 480), (20000, 30), (30, 20000), (7, 9)])
@pytest.mark.parametrize("most", [(1, 1), (34, 34), (5, 9)])
def test_a_grid_never_exceeds_the_budget(size, most):
    grid = own_size(size, 14, most)
    assert min(grid) >= 1
    assert grid[0] * grid[1] <= most[0] * most[1]


def test_a_grid_keeps_the_photos_shape():
    assert own_size((480, 640), 14, (34, 34)) == (29, 39)
