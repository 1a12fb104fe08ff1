"""Which human classes the clusters are matched to: categories as they are, or their supercategories.

Shapes: ``C`` classes, things before stuff; ``n`` segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from u2seg.errors import DataError, lookup
from u2seg.panoptic import PanopticDataset

LEVELS = ("category", "supercategory")


@dataclass(frozen=True)
class Taxonomy:
    """C classes and the class of each category id of the ground truth."""

    keys: tuple[
        tuple[str, bool], ...
    ]  # (C,) name, and whether it is a thing: by these, classes of two sets are compared
    class_of: Mapping[int, int]
    things: str  # Level of the thing classes, one of `LEVELS`
    stuff: str  # Level of the stuff classes, one of `LEVELS`

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """(C,)"""
        return [name for name, _ in self.keys]

    @property
    def isthing(self) -> np.ndarray:
        """bool (C,)"""
        return np.array([isthing for _, isthing in self.keys], bool)

    def classes(self, category: np.ndarray) -> np.ndarray:
        """Class int64 (n,) in [0, C) of category ids int64 (n,)."""
        ids, inverse = np.unique(category, return_inverse=True)
        return np.array([self.class_of[index] for index in ids.tolist()], np.int64)[inverse.reshape(-1)]

    @classmethod
    def of(
        cls, gt: PanopticDataset, things: str = "category", stuff: str = "supercategory", like: Taxonomy | None = None
    ) -> Taxonomy:
        """The classes of ``gt``, each kind at its level; numbered as those of ``like``, if given.

        COCO has 80 categories of things and 53 of stuff in 12 and 15 supercategories; the U2Seg paper scores 80 + 15.

        Raises:
            UsageError: a level is neither.
            DataError: supercategories are asked for and do not tell the categories of ``gt`` apart, or it has a class
                that ``like`` has not.
        """
        for level in (things, stuff):
            lookup("level of classes", level, dict.fromkeys(LEVELS))
        for level, isthing, kind in ((things, True, "things"), (stuff, False, "stuff")):
            if level == "supercategory":
                gt.check_supercategories(isthing, f"use --gt-{kind} category (TEST.MATCHING.{kind.upper()})")
        number_of = {key: number for number, key in enumerate(like.keys if like else ())}
        class_of = {}
        for category in (*gt.things, *gt.stuff):
            level = things if category.isthing else stuff
            key = category.name if level == "category" else category.supercategory, category.isthing
            if like and key not in number_of:
                raise DataError(
                    f"{gt.json_file} has the class {key[0]!r}, which the ground truth to score against has not"
                )
            class_of[category.id] = number_of.setdefault(key, len(number_of))
        return cls(tuple(number_of), class_of, things, stuff)
