"""The lattice against the Gaussian it stands for, and mean field against the obvious one over all pairs."""

import numpy as np
import pytest
import torch

from u2seg.errors import UsageError
from u2seg.pseudo.refine import lattice
from u2seg.pseudo.refine.densecrf import BilateralRefiner, DenseCRFRefiner, DenseEnergy, MeanField, positions
from u2seg.pseudo.refine.resize import resize_scores


def exact_kernel(positions):
    """exp(-|p - q|^2 / 2) for all pairs, (P, P)."""
    flat = positions.T.astype(np.float64)
    return np.exp(-0.5 * ((flat[:, None] - flat[None]) ** 2).sum(axis=-1))


def exact_mean_field(energy, image, scores):
    """Krähenbühl & Koltun's algorithm 1 with dense kernels, as it reads."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    place = np.stack([x.ravel(), y.ravel()])
    kernels = [
        (energy.position_weight, exact_kernel(place / energy.position_std)),
        (energy.bilateral_weight, exact_kernel(positions(energy, image))),
    ]
    unary = energy.unary(scores[None], height, width).reshape(len(scores), -1).astype(np.float64)
    marginals = np.exp(-unary) / np.exp(-unary).sum(axis=0)
    for _ in range(energy.iterations):
        logits = -unary
        for weight, kernel in kernels:
            norm = 1 / np.sqrt(kernel.sum(axis=1))
            logits = logits + weight * (marginals * norm) @ kernel * norm
        marginals = np.exp(logits - logits.max(axis=0))
        marginals /= marginals.sum(axis=0)
    return marginals.reshape(len(scores), height, width)


def photo(height=28, width=36, seed=0):
    """A smooth two-coloured image with noise, uint8, whose border is a wave."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    bright = x > width / 2 + 4 * np.sin(y / 3)
    image = 90 + 50 * bright[..., None] + rng.normal(0, 4, (height, width, 3))
    return image.astype(np.uint8), bright


def energy(**changes):
    values = {
        "iterations": 5,
        "scale": 1.0,
        "position_weight": 3.0,
        "position_std": 2.0,
        "bilateral_weight": 6.0,
        "bilateral_std": 15.0,
        "colour_std": 12.0,
    }
    return DenseEnergy(**{**values, **changes})


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_splatting_keeps_every_point_and_its_place(dims):
    positions = np.random.default_rng(dims).normal(size=(dims, 300)) * 4
    base, rank, weights = lattice._simplices(positions)
    elevated = lattice._elevate(positions.astype(np.float32))
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-4)
    assert weights.min() > -1e-4
    assert (base.sum(axis=0) == 0).all()
    corner = np.arange(dims + 1)[:, None, None]
    corners = base + corner - (dims + 1) * (rank > dims - corner)
    assert (corners.sum(axis=1) == 0).all()
    assert np.allclose(np.einsum("pk,kdp->dp", weights, corners), elevated, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3, 5])
def test_filter_is_close_to_the_gaussian(dims):
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 4, (dims, 1500))
    values = rng.random((1500, 2)).astype(np.float32) ** 4
    fast = lattice.PermutohedralLattice(positions)
    found = (fast.filter(torch.from_numpy(values)) / fast.filter(torch.ones(1500, 1))).numpy()
    kernel = exact_kernel(positions)
    wanted = kernel @ values / kernel.sum(axis=1)[:, None]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
    assert np.abs(found - wanted).mean() < 0.03


def test_normalised_filter():
    positions = np.random.default_rng(0).normal(size=(3, 400))
    values = torch.from_numpy(np.random.default_rng(1).random((400, 4)).astype(np.float32))
    fast = lattice.PermutohedralLattice(positions)
    norm = fast.filter(torch.ones(400, 1)).rsqrt()
    wanted = 3 * norm * fast.filter(norm * values)
    fast.normalise(3)
    assert torch.allclose(fast.filter(values), wanted, rtol=1e-4)
    assert torch.allclose(fast.filter(values[:, :1]), wanted[:, :1], rtol=1e-4), "another kernel is used for one column"


def test_neighbours_are_symmetric():
    fast = lattice.PermutohedralLattice(np.random.default_rng(0).normal(size=(5, 400)))
    for blur in fast._blurs:
        assert (blur != blur.T).nnz == 0


def test_unique_both_ways():
    rng = np.random.default_rng(0)
    for spread in (50, 2**60):
        keys = rng.integers(-spread, spread, 500)
        vertices, places = lattice._unique(keys)
        assert np.array_equal(vertices, np.unique(keys))
        assert np.array_equal(vertices[places], keys)


def test_too_small_deviations_are_refused():
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 3)).astype(np.uint8)
    with pytest.raises(UsageError, match="too small"):
        MeanField(energy(colour_std=1e-4), image)


@pytest.mark.parametrize("labels", [2, 4])
def test_mean_field_is_that_over_all_pairs(labels):
    image, bright = photo()
    rng = np.random.default_rng(1)
    scores = 0.2 + rng.random((labels, 7, 9))
    scores[1] += resize_scores(bright[None].astype(np.float32), 7, 9)[0]
    scores = (scores / scores.sum(axis=0)).astype(np.float32)
    found = MeanField(energy(), image).infer(scores[None])[0]
    wanted = exact_mean_field(energy(), image, scores)
    plain = resize_scores(scores, *image.shape[:2])
    assert np.allclose(found.sum(axis=0), 1, atol=1e-5)
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() > 0.98
    assert (plain.argmax(axis=0) == wanted.argmax(axis=0)).mean() < 0.96, "the oracle must differ from no refinement"


def test_agrees_with_pydensecrf_at_the_papers_constants():
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    data = pytest.importorskip("skimage.data")
    image = data.chelsea()[::2, ::2].copy()
    y, x = np.mgrid[:20, :30]
    mask = ((y - 10) ** 2 + (x - 14) ** 2 < 60).astype(np.float32) * 0.8 + 0.1
    scores = np.stack([1 - mask, mask])
    ours = BilateralRefiner(iterations=10, scale=1.0).refine(image, scores).argmax(axis=0)
    theirs = DenseCRFRefiner().refine(image, scores).argmax(axis=0)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 500)])
def test_odd_sizes(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    scores = np.full((2, 5, 5), 0.5, np.float32)
    found = BilateralRefiner().refine(image, scores)
    assert found.shape == (2, *size)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "change",
    [{"iterations": 0}, {"iterations": 2.5}, {"scale": 0}, {"scale": 2}, {"colour_std": 0}, {"position_weight": -1}],
)
def test_constants_out_of_range_are_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        BilateralRefiner(**change)
