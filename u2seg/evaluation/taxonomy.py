"""Which human classes the clusters are matched to: categories as they are, or their supercategories.

Shapes: ``C`` classes, things before stuff; ``n`` segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from u2seg.errors import DataError, lookup
from u2seg.evaluation.dataset import Category, PanopticSet

LEVELS = ("category", "supercategory")


@dataclass(frozen=True)
class Taxonomy:
    """C classes and the class of each category id of the ground truth."""

    names: tuple[str, ...]
    isthing: np.ndarray
    """bool (C,)"""
    class_of: Mapping[int, int]
    things: str
    """Level of the thing classes, one of `LEVELS`."""
    stuff: str
    """Level of the stuff classes, one of `LEVELS`."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def coarse_things(self) -> bool:
        """Whether one thing class may hold several categories."""
        return self.things != "category"

    def classes(self, category: np.ndarray) -> np.ndarray:
        """Class int64 (n,) in [0, C) of category ids int64 (n,)."""
        ids, inverse = np.unique(category, return_inverse=True)
        return np.array([self.class_of[index] for index in ids.tolist()], np.int64)[inverse.reshape(-1)]

    def aligned_with(self, other: Taxonomy, source: str) -> Taxonomy:
        """This ground truth's categories, numbered as the classes of ``other``.

        Raises:
            DataError: there is a class here that ``other`` does not have.
        """
        there = {key: index for index, key in enumerate(zip(other.names, other.isthing.tolist(), strict=True))}
        here = list(zip(self.names, self.isthing.tolist(), strict=True))
        for name, isthing in here:
            if (name, isthing) not in there:
                raise DataError(f"{source} has the class {name!r}, which the ground truth to score against has not")
        class_of = {category: there[here[index]] for category, index in self.class_of.items()}
        return replace(other, class_of=class_of)

    @classmethod
    def of(cls, gt: PanopticSet, things: str = "category", stuff: str = "supercategory") -> Taxonomy:
        """The classes of ``gt`` at the wanted levels.

        Args:
            gt: the ground truth.
            things: ``category`` (COCO: 80 classes) or ``supercategory`` (12).
            stuff: ``supercategory`` (COCO: 15 classes, as the U2Seg paper scores) or ``category`` (53).

        Raises:
            UsageError: a level is neither.
            DataError: supercategories are asked for and ``gt`` has none.
        """
        levels = {True: things, False: stuff}
        names: list[str] = []
        flags: list[bool] = []
        class_of: dict[int, int] = {}
        for isthing, level in levels.items():
            lookup("level of classes", level, dict.fromkeys(LEVELS))
            known: dict[str, int] = {}
            for category in gt.categories:
                if category.isthing != isthing:
                    continue
                name = _class_name(category, level, gt.name)
                if name not in known:
                    known[name] = len(names)
                    names.append(name)
                    flags.append(isthing)
                class_of[category.id] = known[name]
        return cls(tuple(names), np.array(flags, bool), class_of, things, stuff)


def _class_name(category: Category, level: str, source: str) -> str:
    if level == "category":
        return category.name
    if not category.supercategory:
        kind = "things" if category.isthing else "stuff"
        raise DataError(f"{source}: category {category.name!r} has no supercategory; use --gt-{kind} category")
    return category.supercategory
