"""Gaussian filtering in many dimensions on a permutohedral lattice, with sparse matrices.

Shapes: ``P`` points; ``d`` dimensions of their positions; ``V`` lattice vertices near a point; ``C`` channels.

Method: Adams, Baek & Davis, "Fast high-dimensional filtering using the permutohedral lattice" (Eurographics 2010).
Points are splatted onto the d + 1 corners of the simplex they lie in, blurred along the d + 1 lattice directions, and
sliced back. Splatting is one sparse matrix, and each direction of the blur another, so that many channels, and many
calls for one image, share all the geometry.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from u2seg.errors import UsageError

MAX_KEY = 2**62
"""Vertices are numbered in int64."""


class PermutohedralLattice:
    """A Gaussian filter of standard deviation 1 between points at ``positions`` float (P, d)."""

    def __init__(self, positions: np.ndarray) -> None:
        """Place the points.

        Raises:
            UsageError: the positions spread so far that vertices can't be numbered.
        """
        points, dims = positions.shape
        base, rank, weights = _simplices(positions.astype(np.float64))
        self._strides = _strides(base)
        keys = _corner_keys(base, rank, self._strides)
        vertices, inverse = np.unique(keys, return_inverse=True)
        columns = inverse.reshape(-1).astype(np.int32)
        rows = np.arange(0, points * (dims + 1) + 1, dims + 1, dtype=np.int32)
        self.slicing = sparse.csr_matrix((weights.ravel(), columns, rows), (points, len(vertices)))
        self.splatting = self.slicing.T.tocsr()
        self.blurs = [self._blur(vertices, direction) for direction in range(dims + 1)]

    def _blur(self, vertices: np.ndarray, direction: int) -> sparse.csr_matrix:
        """Weights 1/2 of each vertex and 1/4 of its two neighbours along ``direction``, float32 (V, V)."""
        count, dims = len(vertices), len(self._strides) - 1
        step = np.ones(dims + 1, np.int64)
        step[direction] = -dims
        wanted = vertices + step @ self._strides
        place = np.minimum(np.searchsorted(vertices, wanted), count - 1)
        here = np.flatnonzero(vertices[place] == wanted).astype(np.int32)
        there = place[here].astype(np.int32)
        half = sparse.csr_matrix((np.full(len(here), 0.25, np.float32), (here, there)), (count, count))
        return (half + half.T + sparse.identity(count, np.float32, "csr") * np.float32(0.5)).tocsr()

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Sums float32 (P, C) of ``values`` float32 (P, C) over all points, weighted by the Gaussian of the distance.

        Correct up to one common factor, which any normalisation removes.
        """
        spread = self.splatting @ values
        for blur in self.blurs:
            spread = blur @ spread
        return self.slicing @ spread


def _simplices(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The simplex around each point: its corner 0, int64 (P, d + 1); the descending rank of each coordinate of the
    point's offset from it, int64 (P, d + 1); and the barycentric weights of its corners, float32 (P, d + 1).
    """
    points, dims = positions.shape
    elevated = _elevate(positions)
    # The nearest vertex whose coordinates are all multiples of d + 1, section 3.1.
    nearest = np.rint(elevated / (dims + 1)) * (dims + 1)
    excess = (nearest.sum(axis=1) / (dims + 1)).astype(np.int64)
    rank = np.empty((points, dims + 1), np.int64)
    order = np.argsort(nearest - elevated, axis=1, kind="stable")
    np.put_along_axis(rank, order, np.arange(dims + 1)[None], axis=1)
    # Rounding may leave the hyperplane of zero sum: step back where it costs least.
    rank += excess[:, None]
    wrap = np.where(rank < 0, dims + 1, np.where(rank > dims, -(dims + 1), 0))
    rank += wrap
    nearest += wrap
    ordered = np.empty_like(elevated)
    np.put_along_axis(ordered, rank, (elevated - nearest) / (dims + 1), axis=1)  # from largest to smallest
    weights = np.empty((points, dims + 1), np.float32)
    weights[:, 0] = 1 + ordered[:, -1] - ordered[:, 0]
    weights[:, 1:] = (ordered[:, :-1] - ordered[:, 1:])[:, ::-1]
    return nearest.astype(np.int64), rank, weights


def _strides(base: np.ndarray) -> np.ndarray:
    """Strides int64 (d + 1,) that give each vertex near ``base`` a number of its own; the last is 0, for the last
    coordinate follows from the others.
    """
    dims = base.shape[1] - 1
    margin = 4 * (dims + 1)  # corners and their neighbours on both sides
    sizes = [int(size) + margin for size in np.ptp(base[:, :dims], axis=0)]
    if math.prod(sizes) > MAX_KEY:
        raise UsageError("the standard deviations of the bilateral kernel are too small for an image of this size")
    return np.array([math.prod(sizes[:axis]) for axis in range(dims)] + [0], np.int64)


def _corner_keys(base: np.ndarray, rank: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Number int64 (P, d + 1) of each corner: corner k is k above the base, and k - (d + 1) in the k last ranks."""
    dims = len(strides) - 1
    start = base @ strides
    along = strides[np.argsort(rank, axis=1, kind="stable")]  # strides by rank, (P, d + 1)
    keys = np.empty_like(base)
    keys[:, 0] = start
    for corner in range(1, dims + 1):
        last = along[:, dims - corner + 1 :].sum(axis=1)
        keys[:, corner] = start + corner * strides.sum() - (dims + 1) * last
    return keys


def _elevate(positions: np.ndarray) -> np.ndarray:
    """Positions float64 (P, d) on the hyperplane of zero sum in d + 1 dimensions, scaled to the blur of the lattice."""
    dims = positions.shape[1]
    basis = np.zeros((dims, dims + 1))
    for i in range(dims):
        basis[i, : i + 1] = 1.0
        basis[i, i + 1] = -(i + 1.0)
        basis[i] /= np.sqrt((i + 1.0) * (i + 2.0))
    # The blur along all directions has variance 2 / 3 (d + 1)^2 a dimension, section 3.3.
    return positions @ (basis * (np.sqrt(2.0 / 3.0) * (dims + 1)))
