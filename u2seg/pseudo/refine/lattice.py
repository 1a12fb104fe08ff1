"""Gaussian filtering in many dimensions on a permutohedral lattice, with sparse matrices.

Shapes: ``P`` points; ``d`` dimensions of their positions; ``V`` lattice vertices near a point; ``C`` channels.

Method: Adams, Baek & Davis, "Fast high-dimensional filtering using the permutohedral lattice" (Eurographics 2010).
Points are splatted onto the d + 1 corners of the simplex they lie in, blurred along the d + 1 lattice directions, and
sliced back. Splatting is one sparse matrix, and each direction of the blur another, so that many channels, and many
calls for one image, share all the geometry.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import sparse
from torch.nn.functional import embedding_bag

from u2seg.errors import UsageError

TINY = np.float32(1e-20)
"""Added to row sums, which may be 0."""


class PermutohedralLattice:
    """A Gaussian filter of standard deviation 1 between points at ``positions`` float (d, P)."""

    def __init__(self, positions: np.ndarray) -> None:
        """Place the points.

        Raises:
            UsageError: the positions spread so far that vertices can't be numbered.
        """
        dims, points = positions.shape
        base, rank, weights = _simplices(positions)
        self._strides = _strides(base)
        vertices, columns = _unique(_corner_keys(base, rank, self._strides).ravel())
        starts = np.arange(0, points * (dims + 1) + 1, dims + 1, dtype=np.int32)
        self._slicing = sparse.csr_matrix((weights.ravel(), columns, starts), (points, len(vertices)))
        self._splatting = self._slicing.T.tocsr()
        self._blurs = [self._blur(vertices, direction) for direction in range(dims + 1)]

    def _blur(self, vertices: np.ndarray, direction: int) -> sparse.csr_matrix:
        """Weights 1/2 of each vertex and 1/4 of its two neighbours along ``direction``, float32 (V, V)."""
        count, dims = len(vertices), len(self._strides) - 1
        step = np.ones(dims + 1, np.int64)
        step[direction] = -dims
        neighbours = vertices + step @ self._strides
        place = np.minimum(np.searchsorted(vertices, neighbours), count - 1).astype(np.int32)
        vertex = np.flatnonzero(vertices[place] == neighbours).astype(np.int32)
        neighbour = place[vertex]
        columns = np.repeat(np.arange(count, dtype=np.int32)[:, None], 3, axis=1)
        weights = np.tile(np.array([0, 0.5, 0], np.float32), (count, 1))
        columns[vertex, 2], weights[vertex, 2] = neighbour, 0.25
        columns[neighbour, 0], weights[neighbour, 0] = vertex, 0.25
        starts = np.arange(0, 3 * count + 1, 3, dtype=np.int32)
        return sparse.csr_matrix((weights.ravel(), columns.ravel(), starts), (count, count))

    def normalise(self, weight: float) -> None:
        """Make `filter` ``weight`` times D^-1/2 K D^-1/2, where K is what it was and D the diagonal of its row sums."""
        points = self._slicing.shape[0]
        norm = 1 / np.sqrt(self.filter(torch.ones(points, 1)).numpy()[:, 0] + TINY)
        self._splatting.data *= norm[self._splatting.indices]
        self._slicing.data *= np.repeat(np.float32(weight) * norm, len(self._blurs))

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """Sums float32 (P, C) of ``values`` float32 (P, C) over all points, weighted by the Gaussian of the distance.

        Correct up to one common factor, which `normalise` removes.
        """
        for matrix in (self._splatting, *self._blurs, self._slicing):
            values = _product(matrix, values)
        return values


def _product(matrix: sparse.csr_matrix, values: torch.Tensor) -> torch.Tensor:
    """``matrix`` float32 (n, m) @ ``values`` float32 (m, C)."""
    if values.shape[1] == 1:  # else torch's kernel of embeddings is twice as fast
        return torch.from_numpy(matrix @ values.numpy())
    indices, starts, weights = (torch.from_numpy(part) for part in (matrix.indices, matrix.indptr, matrix.data))
    return embedding_bag(indices, values, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _simplices(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The simplex around each point: its corner 0, int32 (d + 1, P); the descending rank of each coordinate of the
    point's offset from that corner, int8 (d + 1, P); and the barycentric weights of its corners, float32 (P, d + 1).
    """
    elevated = _elevate(positions.astype(np.float32))
    dims = len(elevated) - 1
    # The nearest vertex whose coordinates are all multiples of d + 1, section 3.1.
    nearest = np.rint(elevated / (dims + 1)) * (dims + 1)
    excess = np.rint(nearest.sum(axis=0) / (dims + 1)).astype(np.int8)
    # Rounding may leave the hyperplane of zero sum: step back where it costs least.
    rank = _descending_rank(elevated - nearest) + excess
    wrap = (dims + 1) * ((rank < 0).astype(np.int8) - (rank > dims).astype(np.int8))
    rank += wrap
    nearest += wrap
    ordered = _by_rank((elevated - nearest) / (dims + 1), rank)
    weights = np.empty((elevated.shape[1], dims + 1), np.float32)
    weights[:, 0] = 1 + ordered[-1] - ordered[0]
    weights[:, 1:] = (ordered[:-1] - ordered[1:])[::-1].T
    return nearest.astype(np.int32), rank, weights


def _elevate(positions: np.ndarray) -> np.ndarray:
    """Positions float32 (d, P) on the hyperplane of zero sum in d + 1 dimensions, scaled to the blur of the lattice."""
    dims = len(positions)
    basis = np.zeros((dims + 1, dims))
    for axis in range(dims):
        basis[: axis + 1, axis] = 1.0
        basis[axis + 1, axis] = -(axis + 1.0)
        basis[:, axis] /= math.sqrt((axis + 1.0) * (axis + 2.0))
    # The blur along all directions has variance 2 / 3 (d + 1)^2 a dimension, section 3.3.
    return (basis * (math.sqrt(2.0 / 3.0) * (dims + 1))).astype(np.float32) @ positions


def _descending_rank(offset: np.ndarray) -> np.ndarray:
    """Place int8 (d + 1, P) of each of ``offset`` (d + 1, P) among those of its point, 0 for the largest.

    Comparing pairs is 25 times faster than sorting twice.
    """
    rank = np.zeros(offset.shape, np.int8)
    for axis, other in itertools.combinations(range(len(offset)), 2):
        smaller = offset[axis] < offset[other]
        rank[axis] += smaller
        rank[other] += ~smaller
    return rank


def _by_rank(values: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """``values`` (d + 1, P) or (d + 1, 1) put at row ``rank`` int8 (d + 1, P)."""
    ordered = np.empty(rank.shape, values.dtype)
    np.put_along_axis(ordered, rank, values, axis=0)
    return ordered


def _strides(base: np.ndarray) -> np.ndarray:
    """Strides int64 (d + 1,) that give each vertex near ``base`` a number of its own; the last is 0, for the last
    coordinate follows from the others.
    """
    dims = len(base) - 1
    margin = 4 * (dims + 1)  # corners and their neighbours on both sides
    sizes = [int(size) + margin for size in np.ptp(base[:dims], axis=1)]
    if math.prod(sizes) > 2**61:
        raise UsageError("the standard deviations of the bilateral kernel are too small for an image of this size")
    return np.array([math.prod(sizes[:axis]) for axis in range(dims)] + [0], np.int64)


def _corner_keys(base: np.ndarray, rank: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Number int64 (P, d + 1) of each corner: corner k is k above the base, and k - (d + 1) in the k last ranks."""
    dims = len(strides) - 1
    start = (base * strides[:, None]).sum(axis=0)
    along = _by_rank(strides[:, None], rank)
    keys = np.empty((rank.shape[1], dims + 1), np.int64)
    keys[:, 0] = start
    for corner in range(1, dims + 1):
        start = start + strides.sum() - (dims + 1) * along[dims + 1 - corner]
        keys[:, corner] = start
    return keys


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ``keys`` int64 (n,), ascending, and the place int32 (n,) of each among them."""
    bits = max(len(keys) - 1, 1).bit_length()
    lowest = keys.min()
    if (int(keys.max()) - int(lowest)) >> (62 - bits):
        vertices, places = np.unique(keys, return_inverse=True)
        return vertices, places.astype(np.int32)
    # Sorting numbers is several times faster than sorting their indices, so each carries its index along.
    tagged = np.sort((keys - lowest << bits) | np.arange(len(keys)))
    ordered = tagged >> bits
    first = np.append(True, ordered[1:] != ordered[:-1])
    places = np.empty(len(keys), np.int32)
    places[tagged & ((1 << bits) - 1)] = np.cumsum(first, dtype=np.int32) - 1
    return ordered[first] + lowest, places
