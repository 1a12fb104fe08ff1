"""Which crops look alike: nearest neighbours of pooled features, found once and kept.

Shapes: ``N`` vectors of ``D`` channels; ``k`` neighbours of each.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UsageError
from u2seg.runtime import Progress

logger = logging.getLogger(__name__)

APPROXIMATE_FROM = 200_000
"""faiss searches an inverted file from this many vectors on, and compares all with all below."""
QUERIES, CHUNK = 1024, 65_536
"""Vectors of a block of queries, and of a block that they are compared with: at most 270 MB of cosines at a time."""
PROBED_SHARE = 0.05


def nearest(vectors: np.ndarray, k: int, method: str = "auto", device: str = "cpu") -> np.ndarray:
    """The ``k`` nearest other vectors of each, best first.

    Args:
        vectors: float32 (N, D) of unit length; may be mapped from disk, it is read block by block.
        k: neighbours.
        method: "exact" (blocks of all with all, in memory that does not grow with N), "faiss", or "auto": faiss where
            it is installed.
        device: torch device of the exact method.

    Returns:
        int32 (N, k), never a vector itself.

    Raises:
        UsageError: there are not more than ``k`` vectors, or the method is unknown or not installed.
    """
    if len(vectors) <= k:
        raise UsageError(
            f"{len(vectors)} crops are too few for {k} neighbours each (STEGO.NUM_NEIGHBOURS): add photos, or lower it"
        )
    if method not in ("auto", "exact", "faiss"):
        raise UsageError(f"STEGO.NEIGHBOUR_SEARCH must be auto, exact or faiss, not {method!r}")
    has_faiss = importlib.util.find_spec("faiss") is not None
    if method == "faiss" and not has_faiss:
        raise UsageError("STEGO.NEIGHBOUR_SEARCH faiss: faiss is not installed (pip install faiss-cpu), or take exact")
    if method == "exact" or not has_faiss:
        return _exact(vectors, k, device)
    return _faiss(vectors, k)


def _exact(vectors: np.ndarray, k: int, device: str) -> np.ndarray:
    import torch

    count = len(vectors)
    found = np.empty((count, k), np.int32)
    with Progress("nearest neighbours", count, "crop") as progress:
        for start in range(0, count, QUERIES):
            stop = min(start + QUERIES, count)
            queries = torch.from_numpy(np.array(vectors[start:stop], np.float32)).to(device)
            own = torch.arange(start, stop, device=device)
            best = torch.full((stop - start, k), -2.0, device=device)
            where = torch.zeros((stop - start, k), dtype=torch.long, device=device)
            for first in range(0, count, CHUNK):
                block = torch.from_numpy(np.array(vectors[first : first + CHUNK], np.float32)).to(device)
                cosine = queries @ block.T
                inside = (own >= first) & (own < first + len(block))
                cosine[inside.nonzero()[:, 0], own[inside] - first] = -2.0
                values, index = cosine.topk(min(k, len(block)), dim=1)
                values, index = torch.cat([best, values], 1), torch.cat([where, index + first], 1)
                best, order = values.topk(k, dim=1)
                where = index.gather(1, order)
            found[start:stop] = where.cpu().numpy()
            progress.advance(stop - start)
    return found


def _faiss(vectors: np.ndarray, k: int) -> np.ndarray:
    import faiss

    count, dim = vectors.shape
    if count < APPROXIMATE_FROM:
        index: Any = faiss.IndexFlatIP(dim)
    else:
        lists = int(4 * count**0.5)
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        sample = np.sort(np.random.default_rng(0).choice(count, min(count, 64 * lists), replace=False))
        index.train(np.ascontiguousarray(vectors[sample], np.float32))
        index.nprobe = max(1, int(PROBED_SHARE * lists))
    for start in range(0, count, CHUNK):
        index.add(np.array(vectors[start : start + CHUNK], np.float32))
    found = np.empty((count, k), np.int32)
    for start in range(0, count, CHUNK):
        _, index_of = index.search(np.array(vectors[start : start + CHUNK], np.float32), k + 1)
        found[start : start + CHUNK] = _without_self(index_of, start)
    return found


def _without_self(index: np.ndarray, start: int) -> np.ndarray:
    """Take row ``i + start`` out of row ``i`` of ``index`` int64 (n, k + 1), or its last entry: int64 (n, k)."""
    rows = np.arange(start, start + len(index))[:, None]
    drop = index == rows
    drop[~drop.any(axis=1), -1] = True
    # where an inverted file finds too few, faiss gives -1: the nearest is taken again
    kept = index[~drop].reshape(len(index), -1)
    return np.where(kept < 0, kept[:, :1], kept)


def cached_neighbours(
    directory: Path, pooled: np.ndarray, usable: np.ndarray, k: int, method: str = "auto", device: str = "cpu"
) -> np.ndarray:
    """`nearest` of the crops ``usable`` int64 (n,), read from ``directory`` if it was asked before.

    Returns:
        int32 (n, k), places in ``usable``.
    """
    path = directory / f"neighbours_{method}_{k}.npz"
    if path.exists():
        with np.load(path) as file:
            if np.array_equal(file["usable"], usable):
                return file["index"]
    whole = len(usable) == len(pooled)
    index = nearest(pooled if whole else np.asarray(pooled)[usable], k, method, device)
    temporary = directory / f".{path.name}"
    with open(temporary, "wb") as file:
        np.savez(file, usable=usable, index=index)
    os.replace(temporary, path)
    return index
