"""Which human classes the clusters are matched to: categories as they are, or their supercategories.

Shapes: ``C`` classes, things before stuff; ``n`` segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from u2seg.errors import DataError, lookup
from u2seg.panoptic import PanopticDataset

LEVELS = ("category", "supercategory")


@dataclass(frozen=True)
class Taxonomy:
    """C classes and the class of each category id of the ground truth."""

    names: tuple[str, ...]
    isthing: np.ndarray  # bool (C,)
    class_of: Mapping[int, int]
    things: str  # Level of the thing classes, one of `LEVELS`
    stuff: str  # Level of the stuff classes, one of `LEVELS`

    def __len__(self) -> int:
        return len(self.names)

    @property
    def keys(self) -> list[tuple[str, bool]]:
        """Name and kind of each class, by which classes of two sets are compared."""
        return list(zip(self.names, self.isthing.tolist(), strict=True))

    def classes(self, category: np.ndarray) -> np.ndarray:
        """Class int64 (n,) in [0, C) of category ids int64 (n,)."""
        ids, inverse = np.unique(category, return_inverse=True)
        return np.array([self.class_of[index] for index in ids.tolist()], np.int64)[inverse.reshape(-1)]

    def aligned_with(self, other: Taxonomy, source: str) -> Taxonomy:
        """This ground truth's categories, numbered as the classes of ``other``.

        Raises:
            DataError: there is a class here that ``other`` does not have.
        """
        for key in self.keys:
            if key not in other.keys:
                raise DataError(f"{source} has the class {key[0]!r}, which the ground truth to score against has not")
        return replace(other, class_of={c: other.keys.index(self.keys[index]) for c, index in self.class_of.items()})

    @classmethod
    def of(cls, gt: PanopticDataset, things: str = "category", stuff: str = "supercategory") -> Taxonomy:
        """The classes of ``gt``, each kind at its level.

        COCO has 80 categories of things and 53 of stuff in 12 and 15 supercategories; the U2Seg paper scores 80 + 15.

        Raises:
            UsageError: a level is neither.
            DataError: supercategories are asked for and do not tell the categories of ``gt`` apart.
        """
        for level in (things, stuff):
            lookup("level of classes", level, dict.fromkeys(LEVELS))
        for level, isthing, kind in ((things, True, "things"), (stuff, False, "stuff")):
            if level == "supercategory":
                gt.check_supercategories(isthing, f"use --gt-{kind} category (TEST.MATCHING.{kind.upper()})")
        index_of: dict[tuple[str, bool], int] = {}
        class_of = {}
        for category in (*gt.things, *gt.stuff):
            level = things if category.isthing else stuff
            name = category.name if level == "category" else category.supercategory
            class_of[category.id] = index_of.setdefault((name, category.isthing), len(index_of))
        names = tuple(name for name, _ in index_of)
        return cls(names, np.array([isthing for _, isthing in index_of], bool), class_of, things, stuff)
