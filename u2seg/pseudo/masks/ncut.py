"""The second eigenvector of a thresholded cosine graph, without ever forming its Laplacian.

Shapes: ``b`` graphs; ``n`` nodes (cells of the feature grid); ``D`` feature channels; ``k`` Lanczos steps so far.

A graph has W_ij = 1 where the cosine of nodes i and j exceeds tau and neither is painted, else eps. With B = [cosine >
tau] and ``active`` = 1 - painted, W x = eps * sum(x) + (1 - eps) * active * (B (active * x)), so W is never stored and
painting costs nothing. (D - W) x = lambda D x turns into the symmetric M = D^-1/2 W D^-1/2 with M v = (1 - lambda) v,
x = D^-1/2 v, whose first eigenvector sqrt(d) is known: deflate it and the wanted one is the largest.

Sources: Shi and Malik, "Normalized cuts and image segmentation" (2000), eq. 11 and 12; Wang et al., "TokenCut" (CVPR
2022), eq. 3; Golub and Van Loan, "Matrix computations", section 10.3 (Lanczos with full reorthogonalisation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from u2seg.pseudo.masks.triangle import BREAKDOWN, CHECK_EVERY, TINY, TriangleGraph, cut_one, largest_pair, start


class DenseGraphs:
    """Edges of many graphs on any device, one `torch.bmm` for all of them."""

    def __init__(self, features: Tensor, tau: float) -> None:
        """Join nodes of unit ``features`` float32 (b, D, n) where their cosine exceeds ``tau``."""
        self.edges = torch.bmm(features.transpose(1, 2), features).gt_(tau)

    def matvec(self, x: Tensor) -> Tensor:
        """B x, float32 (b, n)."""
        return torch.bmm(self.edges, x.unsqueeze(2)).squeeze(2)


@dataclass(frozen=True)
class Cut:
    """Relaxed normalised cut of each graph."""

    vector: Tensor
    """float64 (b, n), x of (D - W) x = lambda D x; of unit length, its sign arbitrary."""
    affinity: np.ndarray
    """float64 (b,), 1 - lambda in [-1, 1]: 1 where the graph falls in two, 0 where it has no structure to cut."""
    steps: np.ndarray
    """int64 (b,), Lanczos steps taken."""
    residual: np.ndarray
    """float64 (b,), length of M v - (1 - lambda) v."""


def unit_features(features: Tensor) -> Tensor:
    """Nodes of unit length float32 (b, D, n) from ``features`` (b, D, h, w); a node of zeros stays so."""
    nodes = features.to(torch.float32).flatten(2)
    # Four times as quick as torch's own `normalize` along this dimension.
    return nodes * nodes.square().sum(dim=1, keepdim=True).clamp_min(1e-24).rsqrt()


def cosine_graph(features: Tensor, tau: float, workspace: np.ndarray | None = None) -> DenseGraphs | TriangleGraph:
    """The graph of unit ``features`` float32 (b, D, n): the triangle for one on a CPU, which may use ``workspace``."""
    if features.is_cpu and len(features) == 1:
        return TriangleGraph(features[0].numpy(), tau, workspace)
    return DenseGraphs(features, tau)


def normalized_cut(
    graph: DenseGraphs | TriangleGraph,
    active: Tensor,
    *,
    eps: float = 1e-5,
    keep_painted: bool = False,
    tolerance: float = 1e-5,
    max_steps: int = 200,
) -> Cut:
    """Solve (D - W) x = lambda D x for the second smallest lambda of every graph.

    Args:
        graph: edges B.
        active: float32 (b, n), 1 for nodes in play and 0 for painted ones; two in play or more.
        eps: weight of every pair that no edge joins.
        keep_painted: painted nodes stay in the graph, tied to all others by eps, as the paper words it; else they
            leave it, and x is 0 there.
        tolerance: residual at which a graph is done. Above 1e-5 the masks begin to differ from an exact solver's.
        max_steps: Lanczos steps after which the best vector so far is taken.
    """
    if isinstance(graph, TriangleGraph):
        single = active[0].to(torch.float64).numpy()
        pair = cut_one(graph, single, eps=eps, keep_painted=keep_painted, tolerance=tolerance, max_steps=max_steps)
        return Cut(torch.from_numpy(pair.vector)[None], *(np.array([number]) for number in pair[1:]))
    nodes = torch.ones_like(active) if keep_painted else active
    degree = eps * nodes.sum(dim=1, keepdim=True) + (1 - eps) * graph.matvec(active) * active
    root = nodes * degree.to(torch.float64).sqrt()
    inverse = nodes / degree.to(torch.float64).sqrt()
    scaled = (1 - eps) * active * inverse

    def apply(vector: Tensor) -> Tensor:
        x = inverse * vector
        joined = graph.matvec((active * x).to(torch.float32))
        return torch.addcmul(eps * x.sum(dim=1, keepdim=True) * inverse, scaled, joined.to(torch.float64))

    steps = min(max_steps, int(nodes.sum(dim=1).max()) - 1)
    cut = _lanczos(apply, root / root.norm(dim=1, keepdim=True), tolerance, steps)
    x = inverse * cut.vector
    return replace(cut, vector=x / x.norm(dim=1, keepdim=True))


def _lanczos(apply: Callable[[Tensor], Tensor], first: Tensor, tolerance: float, max_steps: int) -> Cut:
    """Largest eigenpair of ``apply`` orthogonal to ``first`` float64 (b, n); each graph stops at its own step."""
    count, nodes = first.shape
    basis = first.new_empty(count, max_steps + 2, nodes)  # `first`, then the Lanczos vectors; few pages are touched
    basis[:, 0] = first
    current, _ = _orthogonal(torch.from_numpy(start(nodes)).to(first) * (first > 0), basis[:, :1])
    diagonal, below = np.zeros((count, max_steps)), np.zeros((count, max_steps))
    cut = Cut(first.new_zeros(count, nodes), np.zeros(count), np.zeros(count, np.int64), np.zeros(count))
    pending = np.ones(count, bool)
    for step in range(1, max_steps + 1):
        basis[:, step] = current
        image = apply(current)
        diagonal[:, step - 1] = torch.linalg.vecdot(image, current).cpu().numpy()
        current, below[:, step - 1] = _orthogonal(image, basis[:, : step + 1])
        is_over = (below[:, step - 1] < BREAKDOWN) | (step == max_steps)
        # When a graph is looked at depends on that graph alone, so its result does not depend on its neighbours.
        for index in np.flatnonzero(pending & (is_over | (step % CHECK_EVERY == 0))):
            affinity, weights = largest_pair(diagonal[index, :step], below[index, : step - 1])
            residual = below[index, step - 1] * abs(weights[-1])
            if is_over[index] or residual < tolerance:
                cut.vector[index] = torch.from_numpy(weights).to(basis) @ basis[index, 1 : step + 1]
                cut.affinity[index], cut.steps[index], cut.residual[index] = affinity, step, residual
                pending[index] = False
        if not pending.any():
            break
    return cut


def _orthogonal(vector: Tensor, basis: Tensor) -> tuple[Tensor, np.ndarray]:
    """``vector`` float64 (b, n) freed of ``basis`` (b, k, n) and made unit, and its length before that, (b,).

    In float64 once is enough for the accuracy that is asked here. A vector that vanishes comes back as rounding noise.
    """
    column = vector.unsqueeze(2)
    rest = torch.baddbmm(column, basis.transpose(1, 2), torch.bmm(basis, column), alpha=-1).squeeze(2)
    length = torch.linalg.vector_norm(rest, dim=1, keepdim=True).clamp_min_(TINY)
    return rest.div_(length), length[:, 0].cpu().numpy()
