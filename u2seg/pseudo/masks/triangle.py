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

_SMALL = 24
"""Tridiagonal matrices up to this size are solved whole, which numpy begins sooner than scipy."""


class Pair(NamedTuple):
    """Second eigenpair of one graph."""

    vector: np.ndarray
    """float64 (n,), of D^-1/2 W D^-1/2, unit length."""
    affinity: float
    """1 - lambda."""
    steps: int
    residual: float


class TriangleGraph:
    """Edges B of one graph; only one triangle is computed and read, which halves work and traffic."""

    def __init__(self, units: np.ndarray, tau: float, workspace: np.ndarray | None = None) -> None:
        """Join nodes of ``units`` float32 (D, n) where their cosine exceeds ``tau``.

        Args:
            units: features of unit length.
            tau: cosine.
            workspace: float32 (n, n), Fortran order, that the edges may be written over: for the many graphs of a run,
                handing it over each time saves asking for and clearing this memory. No two graphs may share it.
        """
        # Fortran order as BLAS wants it, so nothing is copied; upper triangle, below it whatever was there.
        self.edges = blas.ssyrk(1.0, units.T, beta=0.0, c=workspace, overwrite_c=workspace is not None)
        np.greater(self.edges.T, tau, out=self.edges.T)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        """B x, float32 (n,), of ``x`` float32 (n,)."""
        return blas.ssymv(1.0, self.edges, x)


def second_pair(
    graph: TriangleGraph,
    root: np.ndarray,
    inverse: np.ndarray,
    active: np.ndarray,
    *,
    eps: float,
    tolerance: float,
    max_steps: int,
) -> Pair:
    """Largest eigenpair of M = D^-1/2 W D^-1/2 orthogonal to its first eigenvector, by Lanczos.

    Args:
        graph: edges B.
        root: float64 (n,), square root of the degrees, 0 for nodes that have left the graph.
        inverse: float64 (n,), its inverse, 0 where it is 0.
        active: float64 (n,), 1 for nodes in play and 0 for painted ones.
        eps: weight of all other pairs.
        tolerance: residual at which the pair is exact enough.
        max_steps: Lanczos steps after which the best vector so far is taken.
    """
    if max_steps < 1:  # a single node has no second pair
        return Pair(np.zeros_like(root), 0.0, 0, 0.0)
    inside = active * inverse
    basis = np.empty((max_steps + 2, len(root)))  # sqrt(d), then the Lanczos vectors; few pages are ever touched
    basis[0] = root / np.linalg.norm(root)
    diagonal, below = np.empty(max_steps), np.empty(max_steps)
    current, _ = _orthogonal(start(len(root)) * (root > 0), basis[:1])
    for step in range(1, max_steps + 1):
        basis[step] = current
        joined = graph.matvec((inside * current).astype(np.float32))
        image = (eps * inverse.dot(current)) * inverse + (1 - eps) * (inside * joined)
        diagonal[step - 1] = image.dot(current)
        current, length = _orthogonal(image, basis[: step + 1])
        below[step - 1] = length
        over = step == max_steps or length < BREAKDOWN
        if over or step % CHECK_EVERY == 0:
            affinity, weights = largest_pair(diagonal[:step], below[: step - 1])
            residual = length * abs(weights[-1])
            if over or residual < tolerance:
                break
    return Pair(weights @ basis[1 : step + 1], affinity, step, residual)


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
    return rest / max(length, 1e-300), length
