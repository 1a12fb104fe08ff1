"""What the classes of a prediction are called: by pseudo-class id, or by the class that each was matched to.

K thing classes, S stuff classes; category ids 1..K and K+1..K+S, as everywhere in files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.errors import DataError, UsageError, lookup
from u2seg.panoptic import read_json_object
from u2seg.structures import LabelSpace, category_color

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

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
        name = self.known.get(category_id)
        key = (name, self.space.is_thing(category_id))
        red, green, blue = category_color(category_id if name is None else self._first_of_name[key])
        return red, green, blue

    @cached_property
    def _first_of_name(self) -> dict[tuple[str | None, bool], int]:
        """Smallest category id of each name, for things (True) and stuff (False)."""
        return {(self.known[i], self.space.is_thing(i)): i for i in sorted(self.known, reverse=True)}

    def categories(self) -> list[dict[str, Any]]:
        """The ``categories`` of a COCO panoptic JSON, with the known names and the colours that are drawn."""
        return [
            {**entry, "name": self.known.get(entry["id"], entry["name"]), "color": list(self.color(entry["id"]))}
            for entry in self.space.categories()
        ]

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's visualizers read, in its contiguous ids: things from 0, stuff from 1."""
        things = range(1, self.space.num_things + 1)
        stuff = range(self.space.num_things + 1, self.space.num_things + self.space.num_stuff + 1)
        return {
            "thing_classes": [self[index] for index in things],
            "thing_colors": [list(self.color(index)) for index in things],
            "stuff_classes": ["things", *(self[index] for index in stuff)],
            "stuff_colors": [[255, 255, 255], *(list(self.color(index)) for index in stuff)],
        }


def names_from_dataset(cfg: CfgNode, space: LabelSpace) -> ClassNames:
    """Names that the first of ``DATASETS.TRAIN`` gives its classes, where it exists, has K and S, and names them.

    Args:
        cfg: the model's config.
        space: K and S of the model.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from u2seg.data.datasets import register_pseudo_dataset

    if not cfg.DATASETS.TRAIN:
        return ClassNames(space)
    entry = cfg.DATASETS.TRAIN[0]
    try:
        metadata = MetadataCatalog.get(entry if entry in DatasetCatalog else register_pseudo_dataset(entry))
    except (UsageError, DataError):  # the training set need not be here to predict
        return ClassNames(space)
    things, stuff = list(metadata.get("thing_classes", ())), list(metadata.get("stuff_classes", ()))[1:]
    if (len(things), len(stuff)) != (space.num_things, space.num_stuff):
        return ClassNames(space)
    pairs = zip([*things, *stuff], space.categories(), strict=True)
    return ClassNames(space, {plain["id"]: name for name, plain in pairs if name != plain["name"]})


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
    from u2seg.evaluation.saved import FORMAT

    content = read_json_object(Path(path))
    if content.get("format") != FORMAT:
        raise DataError(f"{path} is no matching saved by --save-matching")
    try:
        policies = dict(content["policies"])
        chosen = policy or (PREFERRED_POLICY if PREFERRED_POLICY in policies else next(iter(policies), ""))
        table = lookup(f"matching policy in {path}", chosen, policies)["class_of_cluster"]
        class_of_cluster = {int(i): None if j is None else content["classes"][j] for i, j in table.items()}
        names = {i: str(matched["name"]) for i, matched in class_of_cluster.items() if matched}
        crossed = [i for i, matched in class_of_cluster.items() if matched and matched["isthing"] != space.is_thing(i)]
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is no whole matching: {type(error).__name__} {error}") from error
    count = space.num_things + space.num_stuff
    if crossed or class_of_cluster.keys() != set(range(1, count + 1)):
        raise DataError(
            f"{path} matches {len(class_of_cluster)} clusters, which are not those of the model: "
            f"{space.num_things} of things, then {space.num_stuff} of stuff"
        )
    return ClassNames(space, names)
