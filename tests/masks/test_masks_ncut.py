"""The fast normalised cut beside scipy's exact solver, and what it must not depend on."""

import numpy as np
import pytest
import scipy.linalg
import torch
from mask_scenes import scene

from u2seg.pseudo.masks import ncut


def units_of(features):
    return ncut.unit_features(torch.from_numpy(features[None]))


def graph_of(features, tau):
    return ncut.cosine_graphs(units_of(features), tau)


def cut_of(graph, active, **options):
    return ncut.run_searches([ncut.normalized_cut(active, **options)], graph.matvec)[0]


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
    cut = cut_of(graph_of(features, tau), active, keep_painted=keep_painted, tolerance=1e-8)
    x, affinity = exact(features, active, tau, 1e-5, keep_painted)
    assert cut.affinity == pytest.approx(affinity, abs=1e-5)
    assert abs(x @ cut.vector) / np.linalg.norm(cut.vector) == pytest.approx(1, abs=1e-5)


def test_triangle_and_dense_graph_are_the_same():
    units = units_of(scene(0))
    dense = ncut.DenseGraphs(units, 0.3)
    x = np.random.default_rng(0).standard_normal((1, units.shape[2]), np.float32)
    used = np.full((units.shape[2],) * 2, np.nan, np.float32, order="F")  # memory that holds anything
    for workspace in (None, used):
        triangle = ncut.TriangleGraph(units[0].numpy(), 0.3, workspace)
        assert np.allclose(triangle.matvec(x), dense.matvec(x), atol=1e-4)
    assert np.shares_memory(triangle.edges, used)


def test_painted_nodes_leave_the_graph():
    units = units_of(scene(3))
    active = np.ones(units.shape[2], bool)
    active[:100] = False
    whole = cut_of(ncut.cosine_graphs(units, 0.3), active)
    rest = cut_of(ncut.cosine_graphs(units[:, :, 100:].contiguous(), 0.3), active[100:])
    assert (whole.vector[:100] == 0).all()
    assert abs(whole.vector[100:] @ rest.vector) == pytest.approx(1, abs=1e-5)


def test_a_loose_tolerance_takes_fewer_steps_and_says_so():
    graph, active = graph_of(scene(1), 0.3), np.ones(480, bool)
    tight, loose = (cut_of(graph, active, tolerance=t) for t in (1e-8, 1e-1))
    assert loose.steps < tight.steps
    assert tight.residual < 1e-8 < loose.residual < 1e-1


def test_max_steps_is_kept():
    cut = cut_of(graph_of(scene(1), 0.6), np.ones(480, bool), max_steps=3, tolerance=0)
    assert cut.steps == 3
    assert np.isfinite(cut.vector).all()
