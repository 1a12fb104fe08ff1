"""The fast normalised cut beside scipy's exact solver, and what it must not depend on."""

import numpy as np
import pytest
import scipy.linalg
import torch
from mask_scenes import scene

from u2seg.pseudo.masks import ncut


def exact(features, active, tau, eps, keep_painted):
    """Vector float64 (n,) and affinity 1 - lambda of the second eigenpair, by dense matrices."""
    nodes = features.reshape(len(features), -1).T
    nodes = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
    joined = (nodes @ nodes.T > tau) & active & active[:, None]
    W = np.where(joined, 1.0, eps)
    there = np.full(len(W), True) if keep_painted else active
    W = W[there][:, there]
    D = np.diag(W.sum(axis=1))
    values, vectors = scipy.linalg.eigh(D - W, D, subset_by_index=[1, 1])
    x = np.zeros(len(active))
    x[there] = vectors[:, 0] / np.linalg.norm(vectors[:, 0])
    return x, 1 - values[0]


@pytest.mark.parametrize("keep_painted", [False, True])
@pytest.mark.parametrize("tau", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_the_eigenpair_is_the_exact_one(seed, tau, keep_painted):
    features = scene(seed)
    active = np.random.default_rng(seed).random(features[0].size) > 0.2
    tensor = torch.from_numpy(features)[None]
    graph = ncut.cosine_graph(ncut.unit_features(tensor), tau)
    mask = torch.from_numpy(active.astype(np.float32))[None]
    cut = ncut.normalized_cut(graph, mask, keep_painted=keep_painted, tolerance=1e-8)
    x, affinity = exact(features, active, tau, 1e-5, keep_painted)
    found = cut.vector[0].numpy()
    assert cut.affinity[0] == pytest.approx(affinity, abs=1e-5)
    assert abs(x @ found) / np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_triangle_and_dense_graph_are_the_same():
    units = ncut.unit_features(torch.from_numpy(np.stack([scene(0)])))
    dense = ncut.DenseGraphs(units, 0.3)
    x = torch.randn(1, units.shape[2], generator=torch.Generator().manual_seed(0))
    used = np.full((units.shape[2],) * 2, np.nan, np.float32, order="F")  # memory that holds anything
    for workspace in (None, used):
        triangle = ncut.TriangleGraph(units[0].numpy(), 0.3, workspace)
        assert np.allclose(triangle.matvec(x[0].numpy()), dense.matvec(x)[0].numpy(), atol=1e-4)
    assert np.shares_memory(triangle.edges, used)


@pytest.mark.parametrize("keep_painted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_numpy_for_one_graph_and_torch_for_many_take_the_same_steps(seed, keep_painted):
    units = ncut.unit_features(torch.from_numpy(scene(seed))[None])
    active = torch.ones(1, units.shape[2])
    active[:, 60:100] = 0
    options = {"keep_painted": keep_painted, "tolerance": 1e-6}
    one = ncut.normalized_cut(ncut.TriangleGraph(units[0].numpy(), 0.3), active, **options)
    many = ncut.normalized_cut(ncut.DenseGraphs(units, 0.3), active, **options)
    assert one.steps[0] == many.steps[0]
    assert one.affinity[0] == pytest.approx(many.affinity[0], abs=1e-6)
    assert abs(one.vector[0] @ many.vector[0]) == pytest.approx(1, abs=1e-5)


def test_a_batch_gives_what_each_gives_alone():
    units = ncut.unit_features(torch.from_numpy(np.stack([scene(seed, noise=0.1 + 0.2 * seed) for seed in range(5)])))
    active = torch.ones(len(units), units.shape[2])
    active[4, 9:] = 0  # its Krylov space ends long before the others'
    graphs = ncut.DenseGraphs(units, 0.4)
    together = ncut.normalized_cut(graphs, active)
    assert len(set(together.steps.tolist())) > 2, "the graphs end at different steps, or this shows nothing"
    for index in range(5):
        one = slice(index, index + 1)
        single = ncut.DenseGraphs(units[one], 0.4)
        single.edges = graphs.edges[one]  # the product's last digit, so an edge, may depend on the size of a batch
        alone = ncut.normalized_cut(single, active[one])
        assert alone.steps[0] == together.steps[index]
        assert torch.allclose(alone.vector[0], together.vector[index], atol=1e-5)  # float32 products


def test_painted_nodes_leave_the_graph():
    units = ncut.unit_features(torch.from_numpy(scene(3))[None])
    active = torch.ones(1, units.shape[2])
    active[:, :100] = 0
    whole = ncut.normalized_cut(ncut.cosine_graph(units, 0.3), active)
    rest = ncut.normalized_cut(ncut.cosine_graph(units[:, :, 100:].contiguous(), 0.3), active[:, 100:].contiguous())
    assert (whole.vector[0, :100] == 0).all()
    assert abs(whole.vector[0, 100:] @ rest.vector[0]) == pytest.approx(1, abs=1e-5)


def test_a_loose_tolerance_takes_fewer_steps_and_says_so():
    graph = ncut.cosine_graph(ncut.unit_features(torch.from_numpy(scene(1))[None]), 0.3)
    active = torch.ones(1, 480)
    tight, loose = (ncut.normalized_cut(graph, active, tolerance=t) for t in (1e-8, 1e-1))
    assert loose.steps[0] < tight.steps[0]
    assert tight.residual[0] < 1e-8 < loose.residual[0] < 1e-1


def test_max_steps_is_kept():
    graph = ncut.cosine_graph(ncut.unit_features(torch.from_numpy(scene(1))[None]), 0.6)
    cut = ncut.normalized_cut(graph, torch.ones(1, 480), max_steps=3, tolerance=0)
    assert cut.steps[0] == 3
    assert torch.isfinite(cut.vector).all()
