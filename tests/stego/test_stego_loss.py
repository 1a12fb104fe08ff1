"""The correspondence loss beside loops that are obvious."""

import numpy as np
import pytest
import torch

from u2seg.stego.loss import (
    all_pairs,
    centre,
    correspondence_loss,
    cosines,
    other_image,
    sample,
)


def loop_loss(f, g, s, t, shift, keep_mean=False):
    """The paper's loss, or the official code's, of one pair: features f, g (D, n, n), codes s, t (C, n, n)."""
    side = f.shape[1]
    places = [(i, j) for i in range(side) for j in range(side)]

    def cosine(a, b):
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    rows, everything = [], []
    for i, j in places:
        feature = [cosine(f[:, i, j], g[:, k, m]) for k, m in places]
        everything += feature
        mean = sum(feature) / len(feature)
        for (k, m), value in zip(places, feature, strict=True):
            code = cosine(s[:, i, j], t[:, k, m])
            rows.append((value - mean, code))
    kept = sum(everything) / len(everything) if keep_mean else 0.0
    return -sum((value + kept - shift) * max(code, 0.0) for value, code in rows) / len(rows)


@pytest.fixture
def quartet():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, dim, 3, 3, generator=generator) for dim in (5, 5, 4, 4)]


@pytest.mark.parametrize("how", ["row", "row_keep_mean"])
@pytest.mark.parametrize("shift", [0.0, 0.08, 0.66])
def test_the_loss_is_the_papers_and_the_official_codes(quartet, shift, how):
    f, g, s, t = quartet
    pair = (centre(cosines(f, g), how), cosines(s, t))
    expected = loop_loss(*(part[0].numpy() for part in quartet), shift, how == "row_keep_mean")
    assert float(correspondence_loss(pair, shift)) == pytest.approx(expected, abs=1e-6)


def test_each_point_is_centred_over_the_other_image(quartet):
    raw = cosines(quartet[0], quartet[1])
    assert centre(raw, "row").mean(dim=2).abs().max() < 1e-6
    assert not torch.allclose(centre(raw, "row").mean(dim=1), torch.zeros(1, 9), atol=1e-3)
    assert centre(raw, "row_keep_mean").mean() == pytest.approx(float(raw.mean()), abs=1e-6)


def test_codes_that_point_apart_are_left_alone():
    pair = (torch.full((1, 2, 2), 0.9), torch.full((1, 2, 2), -0.5, requires_grad=True))
    loss = correspondence_loss(pair, 0.1)
    loss.backward()
    assert float(loss) == 0.0
    assert float(pair[1].grad.abs().max()) == 0.0


def test_alike_features_attract_and_others_repel():
    codes = torch.full((1, 1, 2), 0.5, requires_grad=True)
    correspondence_loss((torch.tensor([[[0.9, -0.2]]]), codes), 0.1).backward()
    attract, repel = codes.grad.flatten().tolist()
    assert attract < 0 < repel


def test_points_span_the_centres_of_the_outermost_cells():
    """As in the official code (``align_corners=True``): -1 is the first cell, 0.5 lies halfway to the last of three."""
    grid = torch.arange(6.0).reshape(1, 1, 2, 3)
    points = torch.tensor([[[[-1.0, -1.0], [0.0, -1.0]], [[0.5, -1.0], [1.0, 1.0]]]])
    assert sample(grid, points).flatten().tolist() == pytest.approx([0, 1, 1.5, 5], abs=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_another_image_is_never_the_same(batch):
    for _ in range(20):
        assert (other_image(batch, torch.device("cpu")) != torch.arange(batch)).all()


def test_one_image_alone_is_compared_with_itself():
    assert other_image(1, torch.device("cpu")).tolist() == [0]


def test_no_gradient_reaches_the_features():
    features = torch.randn(2, 5, 4, 4, requires_grad=True)
    codes = torch.randn(2, 4, 4, 4, requires_grad=True)
    pairs = all_pairs((features, features), (codes, codes), 3, 1, "row")
    for f, s in pairs["self"] + pairs["random"]:
        assert not f.requires_grad
        assert s.requires_grad


def test_all_three_terms_are_there():
    features, codes = torch.randn(4, 5, 4, 4), torch.randn(4, 3, 4, 4)
    found = all_pairs((features, features.flip(0)), (codes, codes.flip(0)), side=3, num_random=5, centring="row")
    assert {term: len(pairs) for term, pairs in found.items()} == {"self": 1, "knn": 1, "random": 5}
    _, cosine = found["self"][0]
    assert cosine.shape == (4, 9, 9)
    diagonal = cosine.diagonal(dim1=1, dim2=2)
    assert torch.allclose(diagonal, torch.ones_like(diagonal), atol=1e-5)
