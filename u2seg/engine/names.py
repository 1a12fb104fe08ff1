"""What the classes of a prediction are called: by pseudo-class id, or by the class that each was matched to.

K thing classes, S stuff classes; category ids 1..K and K+1..K+S, as everywhere in files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from u2seg.errors import DataError, lookup
from u2seg.evaluation.saved import read_matching
from u2seg.structures import LabelSpace, category_color

PREFERRED_POLICY = "many_to_one"
"""Gives every cluster a class, which is what names are for."""


@dataclass(frozen=True)
class ClassNames:
    """Names and colours of the classes of one model."""

    space: LabelSpace
    known: Mapping[int, str] = field(default_factory=dict)
    """Names by category id; a class that has none is called by its id."""

    def __getitem__(self, category_id: int) -> str:
        return self.known.get(int(category_id), str(int(category_id)))

    def color(self, category_id: int) -> tuple[int, int, int]:
        """RGB, 0..255; one colour for all classes of one name and kind."""
        red, green, blue = category_color(self._first_of_name[self[category_id], self.space.is_thing(category_id)])
        return red, green, blue

    @cached_property
    def _first_of_name(self) -> dict[tuple[str, bool], int]:
        """Smallest category id of each name, for things (True) and stuff (False)."""
        ids = range(self.space.num_things + self.space.num_stuff, 0, -1)
        return {(self[index], self.space.is_thing(index)): index for index in ids}

    def categories(self) -> list[dict[str, Any]]:
        """The ``categories`` of a COCO panoptic JSON, with the known names and the colours that are drawn."""
        return [
            {**entry, "name": self.known.get(entry["id"], entry["name"]), "color": list(self.color(entry["id"]))}
            for entry in self.space.categories()
        ]

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's visualizers read, in its contiguous ids: things from 0, stuff from 1."""
        ids = range(1, self.space.num_things + self.space.num_stuff + 1)
        things, stuff = ids[: self.space.num_things], ids[self.space.num_things :]
        return {
            "thing_classes": [self[index] for index in things],
            "thing_colors": [list(self.color(index)) for index in things],
            "stuff_classes": ["things", *(self[index] for index in stuff)],
            "stuff_colors": [[255, 255, 255], *(list(self.color(index)) for index in stuff)],
        }


def names_from_matching(path: str | os.PathLike[str], space: LabelSpace, policy: str = "") -> ClassNames:
    """Names of the classes that clusters were matched to, from a file of ``--save-matching``.

    Args:
        path: the file.
        space: K and S of the model.
        policy: which of the file's matchings; by default ``many_to_one``, or else the first.

    Raises:
        UsageError: there is no such file, or no such policy in it.
        DataError: it is no saved matching, or one for other clusters.
    """
    classes, matchings = read_matching(Path(path))
    default = PREFERRED_POLICY if PREFERRED_POLICY in matchings else next(iter(matchings), "")
    class_of_cluster = lookup(f"matching policy in {path}", policy or default, matchings)
    matched = {cluster: classes[index] for cluster, index in class_of_cluster.items() if index is not None}
    crossed = any(isthing != space.is_thing(cluster) for cluster, (_, isthing) in matched.items())
    if crossed or class_of_cluster.keys() != set(range(1, space.num_things + space.num_stuff + 1)):
        raise DataError(
            f"{path} matches {len(class_of_cluster)} clusters, which are not those of the model: "
            f"{space.num_things} of things, then {space.num_stuff} of stuff"
        )
    return ClassNames(space, {cluster: name for cluster, (name, _) in matched.items()})
