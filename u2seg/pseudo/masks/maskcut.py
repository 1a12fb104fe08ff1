"""MaskCut: the things of a photo by repeated normalised cuts of its feature graph; TokenCut is its first round.

Shapes: ``b`` photos; ``h, w`` feature grid; ``D`` channels; ``N`` masks.

Sources: Wang et al., "Cut and learn" (CutLER, CVPR 2023), section 3.2, whose corner rule turns a foreground over that
holds most corners of the image; Wang et al., "TokenCut" (CVPR 2022), section 3. What the papers leave open, and what is
decided here, stands in ``docs/research/masks.md``.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from u2seg.errors import DataError, within
from u2seg.pseudo.masks.scoring import mask_scores
from u2seg.runtime import worker_device
from u2seg.structures import MaskSet

if TYPE_CHECKING:
    from u2seg.pseudo.masks.ncut import Search

NO_STRUCTURE = 1e-2
"""A cut whose affinity 1 - lambda is not above this would split a graph in which all nodes are joined alike."""

TIE = 1e-3
"""Nodes within this share of the peak count as tied with it; the first of them is the seed."""

BATCH_BYTES = 2 << 30
"""Graphs that share their products on a GPU take at most this much memory."""

_THREAD = threading.local()


@dataclass(kw_only=True)
class MaskCut:
    """Masks on the feature grid, from at most `num_masks` cuts; what a cut has found leaves the graph before the next.

    Args:
        tau: nodes are joined where the cosine of their features exceeds this (paper: 0.15, for DINO's keys).
        eps: weight of all other pairs.
        num_masks: most rounds, the paper's N.
        min_area: a later round whose mask covers less than this share of the grid ends the search.
        max_corners: a side of the cut that holds more of the image's 4 corners is background (paper: 2).
        split_components: keep every connected part of the foreground, not only the seed's.
        min_component: smallest share of the grid of such a further part.
        keep_painted: painted nodes stay in the graph, joined to all others by eps, as the paper words it. Their own
            eigenvalue then often hides the cut (see ``docs/research/masks.md``), so by default they leave the graph.
        max_steps: most Lanczos steps of a cut.
        tolerance: residual at which a cut is exact enough: above 1e-5 masks begin to differ from an exact solver's,
            with `keep_painted` above 1e-8.
        device: where the cuts run, such as "cpu" or "cuda"; "auto" is a GPU where there is one.

    Raises:
        UsageError: a constant is out of its range.
    """

    tau: float = 0.15
    eps: float = 1e-5
    num_masks: int = 3
    min_area: float = 0.01
    max_corners: int = 2
    split_components: bool = False
    min_component: float = 0.01
    keep_painted: bool = False
    max_steps: int = 200
    tolerance: float = 1e-5
    device: str = "cpu"

    def __post_init__(self) -> None:
        within("tau", self.tau, -1, 1)
        within("eps", self.eps, 1e-12, 1)
        within("num_masks", self.num_masks, 1, 1000, whole=True)
        within("max_corners", self.max_corners, 0, 4, whole=True)
        within("max_steps", self.max_steps, 1, 100_000, whole=True)
        for name in ("min_area", "min_component", "tolerance"):
            within(name, getattr(self, name), 0, 1)

    def generate(self, image: np.ndarray, features: np.ndarray) -> MaskSet:
        """Masks bool (N, h, w), in the order found, of features float32 (D, h, w); ``image`` is not looked at.

        Raises:
            DataError: features are not a finite (D, h, w).
        """
        return self.generate_batch([image], [features])[0]

    def generate_batch(self, images: Sequence[np.ndarray], features: Sequence[np.ndarray]) -> list[MaskSet]:
        """`generate` of b photos; on a GPU those of one grid size share their products."""
        pairs = zip(self.cut(features), features, strict=True)
        return [MaskSet(masks, mask_scores(masks, grid)) for masks, grid in pairs]

    def cut(self, features: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The masks alone, bool (N, h, w), of each of b photos, as of `generate`."""
        import torch

        from u2seg.pseudo.masks.ncut import cosine_graphs, run_searches, unit_features

        device, masks = worker_device(self.device), dict[int, np.ndarray]()
        for places in alike(features, one_by_one=device == "cpu"):
            nodes = torch.from_numpy(np.stack([features[place] for place in places])).to(device)
            height, width = nodes.shape[2:]
            graphs = cosine_graphs(unit_features(nodes), self.tau, _workspace(height * width))
            searches = [self._search(height, width) for _ in places]
            masks.update(zip(places, run_searches(searches, graphs.matvec), strict=True))
        return [masks[place] for place in range(len(features))]

    def _search(self, height: int, width: int) -> Search[np.ndarray]:
        """The rounds of one photo, which return its masks bool (N, h, w)."""
        from u2seg.pseudo.masks.ncut import normalized_cut

        active, masks = np.ones((height, width), bool), list[np.ndarray]()
        for _ in range(self.num_masks if active.size > 1 else 0):
            cut = yield from normalized_cut(
                active.ravel(),
                eps=self.eps,
                keep_painted=self.keep_painted,
                tolerance=self.tolerance,
                max_steps=self.max_steps,
            )
            if cut.affinity <= NO_STRUCTURE:  # the vector is noise
                break
            parts = self._parts(cut.vector.reshape(height, width), active, is_first=not masks)
            if not parts:  # the graph, and so the next cut, would be the same
                break
            active &= ~np.any(parts, axis=0)
            masks += parts
            if active.sum() < 2:
                break
        return np.array(masks, bool).reshape(-1, height, width)

    def _parts(self, vector: np.ndarray, active: np.ndarray, is_first: bool) -> list[np.ndarray]:
        """The masks bool (h, w) of one round, which has the eigenvector ``vector`` float64 (h, w)."""
        side, seed = foreground(vector, active, self.max_corners)
        main = seed_component(side, seed)
        parts = [main] if is_first or main.mean() > self.min_area else []
        if self.split_components:
            parts += components(side & ~main, self.min_component * side.size)
        return parts


def tokencut(*, tau: float = 0.2, eps: float = 1e-5, device: str = "cpu") -> MaskCut:
    """TokenCut: one mask, the side and the component of the peak of |x|, wherever the corners lie (paper: tau 0.2)."""
    return MaskCut(tau=tau, eps=eps, num_masks=1, max_corners=4, device=device)


def check_features(features: np.ndarray) -> None:
    """Raise DataError unless ``features`` are a finite (D, h, w)."""
    if features.ndim != 3 or not np.isfinite(features).all():
        raise DataError(f"features are not a finite (D, h, w) but {features.dtype} {features.shape}")


def alike(features: Sequence[np.ndarray], one_by_one: bool) -> Iterator[list[int]]:
    """Places of ``features`` (D, h, w) of one shape: all that memory holds, or ``one_by_one``.

    Raises:
        DataError: features are not a finite (D, h, w).
    """
    places_by_shape = defaultdict(list)
    for place, grid in enumerate(features):
        check_features(grid)
        places_by_shape[grid.shape].append(place)
    for (_, height, width), places in places_by_shape.items():
        size = 1 if one_by_one else max(1, BATCH_BYTES // (4 * (height * width) ** 2))
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _workspace(nodes: int) -> np.ndarray:
    """Memory float32 (nodes, nodes), Fortran order, for the edges of a graph; the same for every photo of a thread."""
    if len(getattr(_THREAD, "edges", ())) != nodes:
        _THREAD.edges = np.empty((nodes, nodes), np.float32, order="F")
    return _THREAD.edges


def foreground(vector: np.ndarray, active: np.ndarray, max_corners: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The side of the cut that holds the thing, and its seed.

    The eigenvector is cut at its mean over active nodes. The side of the peak of |x| is the foreground, unless it
    holds more than ``max_corners`` image corners: then it is the other side, seeded at that side's own peak. Painted
    nodes belong to neither side. Nothing here depends on the eigenvector's arbitrary sign.

    Args:
        vector: float32 (h, w), eigenvector x.
        active: bool (h, w), nodes that no earlier mask has painted; at least one.
        max_corners: most of the 4 image corners that a thing may hold.

    Returns:
        bool (h, w), and the seed's row and column.
    """
    above = (vector > vector[active].mean()) & active
    seed = _peak(np.abs(vector), active)
    side = above if above[seed] else active & ~above
    corners = side[[0, 0, -1, -1], [0, -1, 0, -1]]
    if corners.sum() <= max_corners or not (active & ~side).any():
        return side, seed
    other = active & ~side
    return other, _peak(vector if above[np.nonzero(other)].any() else -vector, other)


def _peak(values: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
    """First place of ``allowed`` whose value is within `TIE` of the largest there."""
    top = values[allowed].max()
    index = int(np.flatnonzero((values >= top - TIE * abs(top)) & allowed)[0])
    return divmod(index, values.shape[1])


def seed_component(side: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The part of ``side`` bool (h, w) that is joined to ``seed`` through shared edges of cells."""
    from scipy import ndimage

    labels, _ = ndimage.label(side)
    return labels == labels[seed]


def components(side: np.ndarray, min_cells: float) -> list[np.ndarray]:
    """Connected parts of ``side`` bool (h, w) of at least ``min_cells`` cells, largest first."""
    from scipy import ndimage

    labels, count = ndimage.label(side)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind="stable")
    return [labels == index + 1 for index in order if areas[index] >= max(min_cells, 1)]
