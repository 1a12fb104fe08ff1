"""Masks from a tree of regions: cells are merged by Ward's criterion, and nodes that look like things are kept.

A photo's parts, things and groups of things are all nodes of one tree, so small and nested things are found that no
cut in two shows. Which nodes are things is told without labels: by how they stand out from what is around them
(`u2seg.pseudo.masks.scoring.mask_scores`), and by whether normalised cuts of the same photo find them too.

Shapes: ``h, w`` feature grid, n = h * w cells, the leaves; ``D`` channels; ``M`` candidates; ``C`` masks of a cut.

Sources: Ward, "Hierarchical grouping to optimize an objective function" (1963), neighbours only; the idea of proposals
from one hierarchy is Uijlings et al., "Selective search" (IJCV 2013). The choice of nodes is ours:
``docs/research/masks.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from u2seg.errors import DataError, UsageError, within
from u2seg.pseudo.masks.maskcut import MaskCut, check_features
from u2seg.pseudo.masks.scoring import mask_scores, unit_cells
from u2seg.structures import MaskSet

CUT_ROUNDS = 8
"""Rounds of each normalised cut that votes on the nodes."""
BLOCK = 128
"""Masks that `distinct` compares with each other by one matrix product."""


@dataclass(kw_only=True)
class RegionTree:
    """Nodes of a Ward tree over the feature grid that normalised cuts agree with, best first.

    Args:
        trees: Ward trees, each over its share of the channels: as many as blocks whose features lie side by side. The
            first share scores.
        taus: thresholds of the normalised cuts whose masks are candidates too, and vote; () for the tree alone.
        min_agreement: what masks count as that the cuts agree with less, since cuts see no small things.
        min_score: masks that score less are left out.
        max_masks: most masks of a photo.
        max_overlap: of two masks with a higher IoU only the better one is kept; nested masks below it both are.
        min_area: smallest mask, share of the grid.
        max_area: largest mask, share of the grid.
        device: where the cuts run, as for `MaskCut`.

    Raises:
        UsageError: a constant is out of its range.
    """

    trees: int = 1
    taus: Sequence[float] = (0.4, 0.6)
    min_agreement: float = 0.0
    min_score: float = 0.007
    max_masks: int = 30
    max_overlap: float = 0.5
    min_area: float = 0.004
    max_area: float = 0.6
    device: str = "cpu"

    def __post_init__(self) -> None:
        within("trees", self.trees, 1, whole=True)
        within("max_masks", self.max_masks, 1, 10_000, whole=True)
        for name in ("min_agreement", "min_score", "max_overlap", "min_area", "max_area"):
            within(name, getattr(self, name), 0, 1)
        if isinstance(self.taus, str) or not isinstance(self.taus, Sequence):
            raise UsageError(f"taus is {self.taus!r}; it is a list of thresholds such as [0.4, 0.6], or []")
        area = self.min_area
        cut = MaskCut(
            num_masks=CUT_ROUNDS, min_area=area, split_components=True, min_component=area, device=self.device
        )
        self.cuts = [replace(cut, tau=tau) for tau in self.taus]
        import sklearn.cluster  # noqa: F401  so that workers find it imported (`u2seg.pseudo.run.PRELOAD`)

    def generate(self, image: np.ndarray, features: np.ndarray) -> MaskSet:
        """Masks bool (N, h, w), best first, of features float32 (D, h, w); ``image`` is not looked at.

        Their scores are those of `mask_scores` times the square root of `agreement` with the cuts, at least
        ``min_agreement``.

        Raises:
            DataError: features are not a finite (D, h, w), or there are not as many channels for each tree.
        """
        check_features(features)
        channels, height, width = features.shape
        if channels % self.trees:
            raise DataError(f"features have {channels} channels, which make no {self.trees} equal shares (trees)")
        shares = np.split(features, self.trees)
        if height * width < 2:
            return MaskSet.empty(height, width)
        cuts = [cut.cut(shares[:1])[0] for cut in self.cuts]
        masks = np.concatenate([*(region_masks(unit_cells(share), height, width) for share in shares), *cuts])
        area = masks.mean(axis=(1, 2))
        masks = masks[(area >= self.min_area) & (area <= self.max_area)]
        scores = mask_scores(masks, shares[0])
        if cuts:
            agreed = np.mean([agreement(masks, cut) for cut in cuts], axis=0, dtype=np.float32)
            scores *= np.sqrt(np.maximum(agreed, np.float32(self.min_agreement)))
        kept = distinct(masks, np.where(scores >= self.min_score, scores, 0), self.max_overlap, self.max_masks)
        return MaskSet(masks[kept], scores[kept])


def overlaps(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each of ``masks`` bool (M, h, w) with each of ``others`` bool (C, h, w), float32 (M, C)."""
    flat, flat_others = (array.reshape(len(array), math.prod(array.shape[1:])) for array in (masks, others))
    shared = flat.astype(np.float32) @ flat_others.astype(np.float32).T  # counts below 2^24 are exact
    either = flat.sum(axis=1)[:, None] + flat_others.sum(axis=1) - shared
    return shared / np.maximum(either, 1).astype(np.float32)


def agreement(masks: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """IoU of each of ``masks`` bool (M, h, w) with the mask of ``cut`` bool (C, h, w) most like it, float32 (M,)."""
    return overlaps(masks, cut).max(axis=1, initial=0)


def distinct(masks: np.ndarray, scores: np.ndarray, max_overlap: float, most: int) -> np.ndarray:
    """The best ``most`` masks with a score above 0, int64 (N,), no two of them with an IoU above ``max_overlap``."""
    order = np.argsort(-scores, kind="stable")[: int((scores > 0).sum())]
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        block = block[(overlaps(masks[block], masks[kept]) <= max_overlap).all(axis=1)]
        kept = np.append(kept, block[_greedy(overlaps(masks[block], masks[block]) > max_overlap)])[:most]
        if len(kept) == most:
            break
    return kept


def _greedy(alike: np.ndarray) -> np.ndarray:
    """Of items in order, those not ``alike`` bool (n, n) to one taken before, bool (n,)."""
    free, taken = np.ones((2, len(alike)), bool)
    for index, row in enumerate(alike):
        taken[index] = free[index]
        if taken[index]:
            free &= ~row
    return taken


def region_masks(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every merge of neighbouring regions of ``cells`` float32 (n, D), bool (n - 1, height, width), the root last."""
    from sklearn.cluster import ward_tree
    from sklearn.feature_extraction.image import grid_to_graph

    children, _, count, _ = ward_tree(cells.astype(np.float64), connectivity=grid_to_graph(height, width))
    inside = np.zeros((count + len(children), count), bool)
    inside[np.arange(count), np.arange(count)] = True
    for index, (left, right) in enumerate(children, start=count):
        np.logical_or(inside[left], inside[right], out=inside[index])
    return inside[count:].reshape(-1, height, width)
