"""Where an outline runs between cells: against the definition, cell by cell, and against a photo of known outlines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mask_scenes import scene

from u2seg.pseudo.masks.edges import REACH, soft_edges
from u2seg.pseudo.masks.scoring import dilate


def literal(mask, features):
    """One cell and one neighbour at a time."""
    unit = features / np.linalg.norm(features, axis=0)
    lean = np.zeros(mask.shape)
    for y, x in np.ndindex(mask.shape):
        sides = {True: [], False: []}
        for v, u in np.ndindex(mask.shape):
            if 0 < (y - v) ** 2 + (x - u) ** 2 <= REACH**2:
                sides[bool(mask[v, u])].append(unit[:, y, x] @ unit[:, v, u])
        lean[y, x] = (np.mean(sides[True]) if sides[True] else 0) - (np.mean(sides[False]) if sides[False] else 0)
    inner, outer = mask & dilate(~mask[None], 1)[0], dilate(mask[None], 1)[0] & ~mask
    spread = (lean[inner].mean() - lean[outer].mean()) / 2
    share = np.clip(0.5 + 0.5 * lean / max(spread, 1e-6), 0, 1)
    return np.where(inner | outer, share, mask)


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_those_of_the_definition(seed):
    features = scene(seed, 7, 9)
    masks = np.zeros((2, 7, 9), bool)
    masks[0, 2:5, 3:7] = masks[1, :4, :2] = True
    for mask, share in zip(masks, soft_edges(masks, features), strict=True):
        assert np.allclose(share, literal(mask, features), atol=1e-5)


def blend(shares, seed=0):
    """Features of two things that each cell of ``shares`` (h, w) shows so much of, with some noise."""
    rng = np.random.default_rng(seed)
    inside, outside = np.linalg.qr(rng.normal(size=(16, 2)))[0].T
    noise = rng.normal(size=(16, *shares.shape)) * 0.02
    return (shares * inside[:, None, None] + (1 - shares) * outside[:, None, None] + noise).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_an_outline_between_cells_is_found(seed):
    """Of a disc whose outline cuts cells, shares are closer to how much of a cell it covers than yes and no are."""
    rng = np.random.default_rng(seed)
    centre, fine = rng.uniform(7, 9, 2), (np.arange(16 * 20) + 0.5) / 20
    disc = (fine[:, None] - centre[0]) ** 2 + (fine - centre[1]) ** 2 < 4.3**2
    covered = disc.reshape(16, 20, 16, 20).mean(axis=(1, 3))
    mask = covered > 0.5
    share = soft_edges(mask[None], blend(covered, seed))[0]
    assert np.abs(share - covered).mean() < 0.7 * np.abs(mask - covered).mean()


@given(st.integers(0, 20), st.integers(1, 6), st.integers(1, 6))
def test_only_cells_at_the_outline_are_shared(seed, height, width):
    features, rng = scene(seed, 6, 6), np.random.default_rng(seed)
    masks = rng.random((3, 6, 6)) < 0.5
    masks[0] = False
    masks[1, :height, :width] = True
    shares = soft_edges(masks, features)
    assert shares.dtype == np.float32
    assert shares.min() >= 0
    assert shares.max() <= 1
    core, far = masks & ~dilate(~masks, 1), ~dilate(masks, 1)
    assert (shares[core] == 1).all()
    assert (shares[far] == 0).all()


def test_no_masks_and_one_that_is_everywhere():
    features = scene(0, 5, 6)
    assert soft_edges(np.zeros((0, 5, 6), bool), features).shape == (0, 5, 6)
    assert soft_edges(np.ones((1, 5, 6), bool), features).all()
    assert np.isfinite(soft_edges(np.eye(5, 6, dtype=bool)[None], np.zeros_like(features))).all()
