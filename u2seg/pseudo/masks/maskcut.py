"""MaskCut: the things of a photo by repeated normalised cuts of its feature graph; TokenCut is its first round.

Shapes: ``h, w`` feature grid; ``D`` channels; ``N`` masks; ``b`` photos of one grid size.

Sources: Wang et al., "Cut and learn" (CutLER, CVPR 2023), section 3.2; Wang et al., "TokenCut" (CVPR 2022), section 3.
What the papers leave open, and what is decided here, stands in ``docs/research/masks.md``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from u2seg.errors import DataError, UsageError, within
from u2seg.structures import MaskSet

if TYPE_CHECKING:
    import torch

NO_STRUCTURE = 1e-2
"""A cut whose affinity 1 - lambda is not above this would split a graph in which all nodes are joined alike."""

BATCH_BYTES = 2 << 30
"""Graphs that share one matrix product on a GPU take at most this much memory."""

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
        """`generate` of many photos; on a GPU those of one grid size share their matrix products."""
        import torch

        from u2seg.pseudo.masks.scoring import mask_scores

        device = _pick_device(self.device)
        results: dict[int, MaskSet] = {}
        for indices in _alike(features, 1 if device.type == "cpu" else None):
            stack = torch.from_numpy(np.stack([features[index] for index in indices])).to(device)
            for index, masks in zip(indices, self._cut(stack), strict=True):
                results[index] = MaskSet(masks, mask_scores(masks, features[index]))
        return [results[index] for index in range(len(features))]

    def _cut(self, features: torch.Tensor) -> list[np.ndarray]:
        """Masks bool (N, h, w) of each photo of ``features`` (b, D, h, w)."""
        import torch

        from u2seg.pseudo.masks.ncut import cosine_graph, normalized_cut, unit_features

        height, width = features.shape[2:]
        graph = cosine_graph(unit_features(features), self.tau, _workspace(height * width))
        searches = [_Search(height, width) for _ in features]
        for _ in range(self.num_masks):
            # A photo whose search is over is cut along with the others, whole, and the cut ignored.
            active = np.stack([(search.active | search.is_over).ravel() for search in searches])
            cut = normalized_cut(
                graph,
                torch.from_numpy(active).to(features.device, torch.float32),
                eps=self.eps,
                keep_painted=self.keep_painted,
                tolerance=self.tolerance,
                max_steps=self.max_steps,
            )
            for search, vector, affinity in zip(searches, cut.vector.cpu().numpy(), cut.affinity, strict=True):
                if not search.is_over:
                    self._paint(search, vector, affinity)
            if all(search.is_over for search in searches):
                break
        return [np.array(search.masks, bool).reshape(-1, height, width) for search in searches]

    def _paint(self, search: _Search, vector: np.ndarray, affinity: float) -> None:
        """Turn the eigenvector float32 (h * w,) of one round into masks, and paint them."""
        from u2seg.pseudo.masks.bipartition import components, foreground, seed_component

        masks: list[np.ndarray] = []
        if affinity > NO_STRUCTURE:  # else the vector is noise
            side, seed = foreground(vector.reshape(search.active.shape), search.active, self.max_corners)
            main = seed_component(side, seed)
            if not search.masks or main.mean() > self.min_area:
                masks.append(main)
            if self.split_components:
                masks += components(side & ~main, self.min_component * side.size)
        for mask in masks:
            search.active &= ~mask
        search.masks += masks
        # After an empty round the graph, and so the next cut, would be the same.
        search.is_over = not masks or search.active.sum() < 2


class _Search:
    """The rounds of one photo: the cells that no mask has painted, the masks so far, and whether more may come."""

    def __init__(self, height: int, width: int) -> None:
        self.active = np.ones((height, width), bool)
        self.masks: list[np.ndarray] = []
        self.is_over = height * width < 2


def tokencut(*, tau: float = 0.2, eps: float = 1e-5, device: str = "cpu") -> MaskCut:
    """TokenCut: one mask, the side and the component of the peak of |x|, wherever the corners lie (paper: tau 0.2)."""
    return MaskCut(tau=tau, eps=eps, num_masks=1, max_corners=4, device=device)


def _pick_device(name: str) -> torch.device:
    """The torch device called ``name``; "auto" is a GPU where there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r}: {error}") from error


def check_features(features: np.ndarray) -> None:
    """Raise DataError unless ``features`` are a finite (D, h, w)."""
    if features.ndim != 3 or not np.isfinite(features).all():
        raise DataError(f"features are not a finite (D, h, w) but {features.dtype} {features.shape}")


def _workspace(nodes: int) -> np.ndarray:
    """Memory float32 (nodes, nodes), Fortran order, for the edges of a graph; the same for every photo of a thread."""
    if len(getattr(_THREAD, "edges", ())) != nodes:
        _THREAD.edges = np.empty((nodes, nodes), np.float32, order="F")
    return _THREAD.edges


def _alike(features: Sequence[np.ndarray], most: int | None) -> list[list[int]]:
    """Indices of photos in groups of one feature shape, at most ``most`` to a group, or as many as memory holds."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(features):
        check_features(array)
        groups.setdefault(array.shape, []).append(index)
    chunks = []
    for shape, indices in groups.items():
        size = most or max(1, BATCH_BYTES // (4 * (shape[1] * shape[2]) ** 2))
        chunks += [indices[start : start + size] for start in range(0, len(indices), size)]
    return chunks
