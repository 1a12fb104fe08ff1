"""CAUSE's two losses beside loops that are obvious."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from u2seg_cause.loss import SHARPNESS, contrast, modularity, split_pairs


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_modularity_is_the_sum_over_pairs():
    features, concepts = unit(6, 4), unit(3, 4, seed=1)
    weight = [[max(float(a @ b), 0.0) for b in features] for a in features]
    degree = [sum(row) for row in weight]
    total = sum(degree)
    assigned = torch.softmax(features @ concepts.T / SHARPNESS, dim=1)
    expected = sum(
        (weight[i][j] - degree[i] * degree[j] / total) * float(assigned[i] @ assigned[j])
        for i in range(6)
        for j in range(6)
    )
    assert float(modularity(features, concepts)) == pytest.approx(expected / total, abs=1e-6)


def test_modularity_prefers_the_true_groups():
    kinds = torch.eye(4)[:2]
    features = normalize(kinds.repeat_interleave(5, 0) + 0.05 * unit(10, 4), dim=1)
    merged = normalize(torch.tensor([[1.0, 1.0, 0, 0], [0, 0, 1.0, 0]]), dim=1)
    assert modularity(features, kinds) > 0.4 > modularity(features, merged)


def test_contrast_is_the_mean_over_positives_which_are_in_the_denominator():
    anchors, others = unit(3, 5), unit(6, 5, seed=1)
    positive = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    negative = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    losses = []
    for a in (0, 2):
        weight = [math.exp(float(anchors[a] @ others[j]) / 0.5) for j in range(6)]
        against = sum(weight[j] for j in range(6) if positive[a, j] or negative[a, j])
        each = [-math.log(weight[j] / against) for j in range(6) if positive[a, j]]
        losses.append(sum(each) / len(each))
    loss = contrast(anchors, others, positive, negative, 0.5)
    assert float(loss) == pytest.approx(sum(losses) / 2, abs=1e-5)


def test_an_anchor_is_no_positive_of_its_own():
    closeness = torch.tensor([[1.0, 0.5, 0.2, 0.0], [0.5, 1.0, 0.2, 1.0]])
    positive, negative = split_pairs(closeness, torch.tensor([0, 1]), (0.3, 0.1))
    assert positive.int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]
    assert negative.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


def test_contrast_without_pairs_is_zero_and_has_a_gradient():
    anchors = unit(2, 3).requires_grad_()
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    loss = contrast(anchors, unit(4, 3), nothing, nothing, 0.07)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert bool(torch.isfinite(anchors.grad).all())


def test_contrast_against_all_as_positives_is_finite():
    anchors = unit(2, 3).requires_grad_()
    every, nothing = torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    contrast(anchors, unit(4, 3), every, nothing, 0.07).backward()
    assert bool(torch.isfinite(anchors.grad).all())
