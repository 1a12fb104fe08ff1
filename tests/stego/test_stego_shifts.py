"""Spherical k-means, whitening, shifts from the features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from u2seg.errors import UsageError
from u2seg.stego.head import ClusterProbe, CodeHead, spherical_kmeans, whitening
from u2seg.stego.loss import TERMS, choose_shifts


def blobs(count=4, each=50, dim=8, noise=0.05):
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(count, dim, generator=generator), dim=1)
    points = directions.repeat_interleave(each, 0) + noise * torch.randn(count * each, dim, generator=generator)
    return normalize(points, dim=1), torch.arange(count).repeat_interleave(each)


def test_spherical_kmeans_finds_the_blobs():
    points, truth = blobs()
    centres = spherical_kmeans(points, 4, seed=0)
    found = (points @ centres.T).argmax(dim=1)
    assert all(len(set(found[truth == label].tolist())) == 1 for label in range(4))
    assert len(set(found.tolist())) == 4
    assert torch.allclose(centres.norm(dim=1), torch.ones(4), atol=1e-5)


def test_spherical_kmeans_is_the_same_for_a_seed_and_leaves_no_cluster_empty():
    points, _ = blobs(noise=0.5)
    one, two = spherical_kmeans(points, 12, seed=3), spherical_kmeans(points, 12, seed=3)
    assert torch.equal(one, two)
    assert len(set((points @ one.T).argmax(dim=1).tolist())) == 12


def two_sided(count=24):
    """Crops (n, 8, 6, 6), left half of one kind and right half of another, of three kinds in all."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.eye(8)[:3]
    crops = torch.empty(count, 8, 6, 6)
    for index in range(count):
        left, right = torch.randperm(3, generator=generator)[:2].tolist()
        crops[index, :, :, :3] = kinds[left][:, None, None]
        crops[index, :, :, 3:] = kinds[right][:, None, None]
    return crops + 0.05 * torch.randn(crops.shape, generator=generator)


@pytest.mark.parametrize("centring", ["row", "row_keep_mean"])
def test_shifts_balance_a_crop_and_let_the_share_of_random_pairs_attract_that_belongs_together(centring):
    crops = two_sided()
    found = choose_shifts(crops, crops, 3, 7, centring, seed=0)
    # half of the pairs within a crop are of one kind
    assert found["self"]["same"] == pytest.approx(0.5, abs=0.08)
    assert found["self"]["attract"] == pytest.approx(0.5, abs=0.1)
    assert found["random"]["same"] == pytest.approx(1 / 3, abs=0.1)
    assert found["random"]["attract"] == pytest.approx(found["random"]["same"], abs=0.01)
    assert all(-1 <= found[term]["shift"] <= 1 for term in TERMS)
    if centring == "row":
        assert found["self"]["shift"] == pytest.approx(0, abs=1e-5)


def test_choosing_shifts_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    choose_shifts(two_sided(8), two_sided(8), 3, 5, "row", seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_more_classes_than_patches_are_told():
    with pytest.raises(UsageError, match="3 patches are too few for 4 classes"):
        spherical_kmeans(torch.eye(3), 4, seed=0)


def test_the_cluster_probe_learns_the_blobs():
    points, truth = blobs()
    torch.manual_seed(0)
    probe = ClusterProbe(8, 4)
    with torch.no_grad():
        probe.centres.copy_(points[[10, 60, 110, 160]] + 0.3 * torch.randn(4, 8))
    optimizer = torch.optim.Adam(probe.parameters(), lr=5e-2)
    codes = points.T[None, :, :, None]
    for _ in range(100):
        optimizer.zero_grad()
        probe.loss(codes).backward()
        optimizer.step()
    found = probe(codes)[0, :, :, 0].argmax(dim=0).numpy()
    assert [int(np.bincount(found[truth.numpy() == label]).max()) for label in range(4)] == [50] * 4
    assert float(probe.loss(codes).detach()) < -0.95


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_goes_into_the_head_exactly(power):
    torch.manual_seed(0)
    head, features = CodeHead(6, 4).eval(), torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        codes = head(features)
        flat = codes.flatten(2).transpose(1, 2).reshape(-1, 4)
        mean, axes = whitening(flat, power)
        head.transform(mean, axes)
        found = head(features).flatten(2).transpose(1, 2).reshape(-1, 4)
    assert torch.allclose(found, (flat - mean) @ axes, atol=1e-4)
    if power == 1:
        assert torch.allclose(torch.cov(found.T, correction=0), torch.eye(4), atol=1e-3)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs" / "STEGO").glob("*coco27.yaml")))
def test_published_shifts_come_with_the_centring_that_they_were_found_with(path):
    from u2seg.engine.config import get_cfg

    cfg = get_cfg()
    assert not cfg.STEGO.CHOOSE_SHIFTS
    assert cfg.STEGO.CENTRING == "row_keep_mean"
    cfg.merge_from_file(str(path))
    assert cfg.STEGO.CHOOSE_SHIFTS or cfg.STEGO.CENTRING == "row_keep_mean"
