"""The normalised cut of one graph on a CPU: one triangle of the edges, and Lanczos steps in numpy.

A step on 1,156 nodes takes 0.05 ms of matrix product, so what else a step does must be small: calls of torch, however
little they compute, would take longer than the product. `u2seg.pseudo.masks.ncut` has the method, and the same steps
for many graphs at once.

Shapes: ``n`` nodes; ``D`` feature channels; ``k`` Lanczos steps so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import blas, eigh_tridiagonal

CHECK_EVERY = 2
"""Lanczos steps between two looks at the residual."""

BREAKDOWN = 1e-10
"""A Lanczos vector shorter than this is rounding noise: the Krylov space is complete."""

TINY = 1e-300

_SMALL = 24
"""Tridiagonal matrices up to this size are solved whole, which numpy begins sooner than scipy."""


class TriangleGraph:
    """Edges B of one graph; only one triangle is computed and read, which halves work and traffic."""

    def __init__(self, units: np.ndarray, tau: float, workspace: np.ndarray | None = None) -> None:
        """Join nodes of unit features ``units`` float32 (D, n) where their cosine exceeds ``tau``.

        ``workspace`` float32 (n, n), Fortran order, is memory that the edges may be written over: for the many graphs
        of a run, passing it each time saves asking for and clearing this memory. No two graphs may share it.
        """
        # Fortran order as BLAS wants it, so nothing is copied; upper triangle, below it whatever was there.
        self.edges = blas.ssyrk(1.0, units.T, beta=0.0, c=workspace, overwrite_c=workspace is not None)
        np.greater(self.edges.T, tau, out=self.edges.T)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        """B x, float32 (n,), of ``x`` float32 (n,)."""
        return blas.ssymv(1.0, self.edges, x)


class Pair(NamedTuple):
    """Second eigenpair of one graph, as `u2seg.pseudo.masks.ncut.Cut` has them of many."""

    vector: np.ndarray
    """float64 (n,)"""
    affinity: float
    steps: int
    residual: float


def cut_one(
    graph: TriangleGraph, active: np.ndarray, *, eps: float, keep_painted: bool, tolerance: float, max_steps: int
) -> Pair:
    """`u2seg.pseudo.masks.ncut.normalized_cut` of one graph, ``active`` float64 (n,)."""
    nodes = np.ones_like(active) if keep_painted else active
    degree = eps * nodes.sum() + (1 - eps) * graph.matvec(active.astype(np.float32)).astype(np.float64) * active
    root, inverse = nodes * np.sqrt(degree), nodes / np.sqrt(degree)
    inside = active * inverse
    max_steps = min(max_steps, int(nodes.sum()) - 1)
    if max_steps < 1:  # a single node has no second pair
        return Pair(np.zeros_like(root), 0.0, 0, 0.0)
    basis = np.empty((max_steps + 2, len(root)))  # sqrt(d), then the Lanczos vectors; few pages are ever touched
    basis[0] = root / np.linalg.norm(root)
    diagonal, below = np.empty(max_steps), np.empty(max_steps)
    current, _ = _orthogonal(start(len(root)) * (root > 0), basis[:1])
    for step in range(1, max_steps + 1):
        basis[step] = current
        joined = graph.matvec((inside * current).astype(np.float32))
        image = (eps * inverse.dot(current)) * inverse + (1 - eps) * (inside * joined)
        diagonal[step - 1] = image.dot(current)
        current, below[step - 1] = _orthogonal(image, basis[: step + 1])
        is_over = step == max_steps or below[step - 1] < BREAKDOWN
        if is_over or step % CHECK_EVERY == 0:
            affinity, weights = largest_pair(diagonal[:step], below[: step - 1])
            residual = below[step - 1] * abs(weights[-1])
            if is_over or residual < tolerance:
                break
    x = inverse * (weights @ basis[1 : step + 1])
    return Pair(x / max(float(np.linalg.norm(x)), TINY), affinity, step, residual)


def start(nodes: int) -> np.ndarray:
    """The same mixed start vector float64 (n,) for every graph of a size: a low-discrepancy sequence, nothing drawn."""
    return np.arange(1, nodes + 1) * 0.6180339887498949 % 1 - 0.5


def largest_pair(diagonal: np.ndarray, below: np.ndarray) -> tuple[float, np.ndarray]:
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
