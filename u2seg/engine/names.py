"""What the classes of a prediction are called: by pseudo-class id, or by the class that each was matched to.

K thing classes, S stuff classes; category ids 1..K and K+1..K+S, as everywhere in files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.errors import DataError, UsageError, lookup
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
        twin = category_id
        if category_id in self.known:
            name, isthing = self.known[category_id], self.space.is_thing(category_id)
            twin = min(i for i, other in self.known.items() if other == name and self.space.is_thing(i) == isthing)
        red, green, blue = category_color(twin)
        return red, green, blue

    def categories(self) -> list[dict[str, Any]]:
        """The ``categories`` of a COCO panoptic JSON, with the known names."""
        return [{**entry, "name": self.known.get(entry["id"], entry["name"])} for entry in self.space.categories()]

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
    """Names that the first of ``DATASETS.TRAIN`` gives its classes, if it is at hand, has K and S and names of its own.

    Args:
        cfg: the model's config.
        space: K and S of the model.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from u2seg.data.datasets import register_pseudo_dataset

    for entry in cfg.DATASETS.TRAIN:
        try:
            name = entry if entry in DatasetCatalog else register_pseudo_dataset(entry)
        except (UsageError, DataError):
            return ClassNames(space)  # the training set need not be here to predict
        metadata = MetadataCatalog.get(name)
        things, stuff = list(metadata.get("thing_classes", ())), list(metadata.get("stuff_classes", ()))[1:]
        if (len(things), len(stuff)) == (space.num_things, space.num_stuff):
            own = [category["name"] for category in space.categories()]
            pairs = zip([*things, *stuff], own, strict=True)
            return ClassNames(space, {i: name for i, (name, plain) in enumerate(pairs, start=1) if name != plain})
        break
    return ClassNames(space)


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
    from u2seg.evaluation.dataset import read_json
    from u2seg.evaluation.saved import FORMAT

    content = read_json(Path(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no matching saved by --save-matching")
    try:
        policies = dict(content["policies"])
        chosen = policy or (PREFERRED_POLICY if PREFERRED_POLICY in policies else next(iter(policies), ""))
        table = lookup(f"matching policy in {path}", chosen, policies)["class_of_cluster"]
        classes = [(str(entry["name"]), bool(entry["isthing"])) for entry in content["classes"]]
        matched = {int(index): classes[place] for index, place in table.items() if place is not None}
        clusters = {int(index) for index in table}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, UsageError):
            raise
        raise DataError(f"{path} is no whole matching: {type(error).__name__} {error}") from error
    count = space.num_things + space.num_stuff
    if clusters != set(range(1, count + 1)):
        raise DataError(
            f"{path} matches {len(clusters)} clusters, the model has {count} "
            f"({space.num_things} of things, {space.num_stuff} of stuff)"
        )
    crossed = [index for index, (_, isthing) in matched.items() if isthing != space.is_thing(index)]
    if crossed:
        raise DataError(
            f"{path} was made for another split of the {count} clusters: it takes {crossed[0]} for "
            f"{'stuff' if space.is_thing(crossed[0]) else 'a thing'}"
        )
    return ClassNames(space, {index: name for index, (name, _) in matched.items()})
