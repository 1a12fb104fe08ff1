"""The second eigenvector of a thresholded cosine graph, without ever forming its Laplacian.

Shapes: ``b`` graphs of one size; ``h, w`` feature grid; ``n`` nodes, its cells; ``D`` feature channels; ``k`` Lanczos
steps so far.

A graph has W_ij = 1 where the cosine of nodes i and j exceeds tau and neither is painted, else eps. With B = [cosine >
tau] and ``active`` = 1 - painted, W x = eps * sum(x) + (1 - eps) * active * (B (active * x)), so W is never stored and
painting costs nothing. (D - W) x = lambda D x turns into the symmetric M = D^-1/2 W D^-1/2 with M v = (1 - lambda) v,
x = D^-1/2 v, whose first eigenvector sqrt(d) is known: deflate it and the wanted one is the largest.

A product B x of 1,156 nodes takes 0.05 ms on a CPU, so what else a step does is numpy's: calls of torch, however little
they compute, would take longer than the product. A cut is a generator that asks for its products, so that cuts of many
graphs can share them, as a GPU wants it.

Sources: Shi and Malik, "Normalized cuts and image segmentation" (2000), eq. 11 and 12; Wang et al., "TokenCut" (CVPR
2022), eq. 3; Golub and Van Loan, "Matrix computations", section 10.3 (Lanczos with full reorthogonalisation).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy.linalg import blas, eigh_tridiagonal
from torch import Tensor

CHECK_EVERY = 2
"""Lanczos steps between two looks at the residual."""

BREAKDOWN = 1e-10
"""A Lanczos vector shorter than this is rounding noise: the Krylov space is complete."""

TINY = 1e-300

_SMALL = 24
"""Tridiagonal matrices up to this size are solved whole, which numpy begins sooner than scipy."""


Result = TypeVar("Result")
Search = Generator[np.ndarray, np.ndarray, Result]
"""Yields vectors x float32 (n,), is sent B x for each, float32 (n,), and returns what it was for."""


class DenseGraphs:
    """Edges B of b graphs on any device; vectors come and go."""

    def __init__(self, units: Tensor, tau: float) -> None:
        """Join nodes of unit features ``units`` float32 (b, D, n) where their cosine exceeds ``tau``."""
        self.edges = torch.bmm(units.transpose(1, 2), units).gt_(tau)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        """B x, float32 (b, n), of ``x`` float32 (b, n)."""
        vectors = torch.from_numpy(x).to(self.edges.device)
        return torch.bmm(self.edges, vectors.unsqueeze(2)).squeeze(2).cpu().numpy()


class TriangleGraph:
    """The same for one graph on a CPU: only one triangle is computed and read, which halves work and traffic."""

    def __init__(self, units: np.ndarray, tau: float, workspace: np.ndarray | None = None) -> None:
        """Join nodes of unit features ``units`` float32 (D, n) where their cosine exceeds ``tau``.

        ``workspace`` float32 (n, n), Fortran order, is memory that the edges may be written over: for the many graphs
        of a run, passing it each time saves asking for and clearing this memory. No two graphs may share it.
        """
        # Fortran order as BLAS wants it, so nothing is copied; upper triangle, below it whatever was there.
        self.edges = blas.ssyrk(1.0, units.T, beta=0.0, c=workspace, overwrite_c=workspace is not None)
        np.greater(self.edges.T, tau, out=self.edges.T)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        """B x, float32 (1, n), of ``x`` float32 (1, n)."""
        return blas.ssymv(1.0, self.edges, x[0])[None]


class Cut(NamedTuple):
    """The relaxed normalised cut of a graph."""

    vector: np.ndarray
    """float64 (n,), x of (D - W) x = lambda D x; of unit length, its sign arbitrary."""
    affinity: float
    """1 - lambda in [-1, 1]: 1 where the graph falls in two, 0 where it has no structure to cut."""
    steps: int
    """Lanczos steps taken."""
    residual: float
    """Length of M v - (1 - lambda) v."""


def unit_features(features: Tensor) -> Tensor:
    """Nodes of unit length float32 (b, D, n) from ``features`` (b, D, h, w); a node of zeros stays so."""
    nodes = features.to(torch.float32).flatten(2)
    # Four times as quick as torch's own `normalize` along this dimension.
    return nodes * nodes.square().sum(dim=1, keepdim=True).clamp_min(1e-24).rsqrt()


def cosine_graphs(units: Tensor, tau: float, workspace: np.ndarray | None = None) -> DenseGraphs | TriangleGraph:
    """Graphs of unit features ``units`` float32 (b, D, n): for one on a CPU the triangle, in ``workspace`` if given."""
    if units.is_cpu and len(units) == 1:
        return TriangleGraph(units[0].numpy(), tau, workspace)
    return DenseGraphs(units, tau)


def run_searches(searches: Sequence[Search[Result]], matvec: Callable[[np.ndarray], np.ndarray]) -> list[Result]:
    """Results of b ``searches``, one in each graph of ``matvec``, which gets the vectors of all at once.

    What a search asks for depends on it alone, so neighbours only matter as far as the device rounds otherwise for
    them. The vector of one that is over stays as it was.
    """
    vectors: list[Any] = [None] * len(searches)
    products: Any = [None] * len(searches)
    results: dict[int, Result] = {}
    while len(results) < len(searches):
        for place, search in enumerate(searches):
            if place not in results:
                try:
                    vectors[place] = search.send(products[place])
                except StopIteration as end:
                    results[place] = end.value
        if len(results) < len(searches):
            products = matvec(np.stack(vectors))
    return [results[place] for place in range(len(searches))]


def normalized_cut(
    active: np.ndarray,
    *,
    eps: float = 1e-5,
    keep_painted: bool = False,
    tolerance: float = 1e-5,
    max_steps: int = 200,
) -> Search[Cut]:
    """Solve (D - W) x = lambda D x for the second smallest lambda.

    Args:
        active: bool (n,), nodes in play, two or more; the others are painted.
        eps: weight of every pair that no edge joins.
        keep_painted: painted nodes stay in the graph, tied to all others by eps, as the paper words it; else they
            leave it, and x is 0 there.
        tolerance: residual that is exact enough. Above 1e-5 the masks begin to differ from an exact solver's.
        max_steps: Lanczos steps after which the best vector so far is taken.
    """
    active = active.astype(np.float64)
    nodes = np.ones_like(active) if keep_painted else active
    degree = eps * nodes.sum() + (1 - eps) * (yield active.astype(np.float32)).astype(np.float64) * active
    root, inverse = nodes * np.sqrt(degree), nodes / np.sqrt(degree)
    inside = active * inverse
    max_steps = min(max_steps, int(nodes.sum()) - 1)
    basis = np.empty((max_steps + 2, len(root)))  # sqrt(d), then the Lanczos vectors; few pages are ever touched
    basis[0] = root / np.linalg.norm(root)
    diagonal, below = np.empty(max_steps), np.empty(max_steps)
    current, _ = _orthogonal(_start(len(root)) * (root > 0), basis[:1])
    for step in range(1, max_steps + 1):
        basis[step] = current
        joined = yield (inside * current).astype(np.float32)
        image = (eps * inverse.dot(current)) * inverse + (1 - eps) * (inside * joined)
        diagonal[step - 1] = image.dot(current)
        current, below[step - 1] = _orthogonal(image, basis[: step + 1])
        is_over = step == max_steps or below[step - 1] < BREAKDOWN
        if is_over or step % CHECK_EVERY == 0:
            affinity, weights = _largest_pair(diagonal[:step], below[: step - 1])
            residual = below[step - 1] * abs(weights[-1])
            if is_over or residual < tolerance:
                break
    x = inverse * (weights @ basis[1 : step + 1])
    return Cut(x / max(float(np.linalg.norm(x)), TINY), affinity, step, residual)


def _start(nodes: int) -> np.ndarray:
    """The same mixed start vector float64 (n,) for every graph of a size: a low-discrepancy sequence, nothing drawn."""
    return np.arange(1, nodes + 1) * 0.6180339887498949 % 1 - 0.5


def _largest_pair(diagonal: np.ndarray, below: np.ndarray) -> tuple[float, np.ndarray]:
    """Largest eigenpair of the tridiagonal matrix of ``diagonal`` float64 (k,) and ``below`` float64 (k - 1,)."""
    size = len(diagonal)
    if size <= _SMALL:
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(below, -1))  # reads the lower triangle
        return float(values[-1]), vectors[:, -1]
    values, vectors = eigh_tridiagonal(diagonal, below, select="i", select_range=(size - 1, size - 1))
    return float(values[0]), vectors[:, 0]


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, float]:
    """``vector`` float64 (n,) freed of ``basis`` (k, n) and made unit, and its length before that.

    In float64 once is enough for the accuracy that is asked here. A vector that vanishes comes back as rounding noise.
    """
    rest = vector - (basis @ vector) @ basis
    length = float(np.sqrt(rest.dot(rest)))
    return rest / max(length, TINY), length
