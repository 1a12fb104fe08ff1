"""A dataset directory as the gallery sees it: what `tools/generate_pseudo.py` wrote, read once and checked.

No pixel is read here. Lists are in the order of ``panoptic.json``, so an index into `LabelledSet.entries` is steady.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from u2seg.errors import UsageError


@dataclass(frozen=True)
class Category:
    """A pseudo-class."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]
    """RGB, 0..255"""


@dataclass(frozen=True)
class Entry:
    """One photo and where its labels lie."""

    image_id: int
    name: str
    """``file_name`` of the photo, below the image root."""
    photo: str
    """Path of the photo."""
    width: int
    height: int
    label: str = ""
    """Path of the panoptic PNG, empty if the photo has none."""
    stuff: str = ""
    """Path that a stuff map made before merging would have."""
    segments: tuple[dict[str, Any], ...] = ()
    """``segments_info``"""
    instances: tuple[dict[str, Any], ...] | None = None
    """COCO annotations of its things, which may overlap; None if the set has no ``instances.json``."""

    def things(self) -> list[dict[str, Any]]:
        """Its thing masks as they were clustered: the instances, or else the thing segments."""
        if self.instances is not None:
            return list(self.instances)
        return [segment for segment in self.segments if segment["isthing"]]

    def stuff_segments(self) -> list[dict[str, Any]]:
        """Its stuff segments."""
        return [segment for segment in self.segments if not segment["isthing"]]

    def void_share(self) -> float:
        """Fraction of the photo in no segment."""
        covered = sum(segment["area"] for segment in self.segments)
        return max(0.0, 1.0 - covered / max(1, self.width * self.height))


@dataclass(frozen=True)
class LabelledSet:
    """A whole dataset directory."""

    folder: Path
    categories: dict[int, Category]
    entries: list[Entry]
    info: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    """``run.json``, empty if there is none."""

    @property
    def num_things(self) -> int:
        """K, the number of thing classes."""
        return sum(category.isthing for category in self.categories.values())

    def caveats(self) -> list[str]:
        """Every caveat that the dataset, or the weights it was made with, carries; each once."""
        found = [str(text) for holder in (self.info, self.run) for text in holder.get("caveats") or []]
        weights = self.run.get("weights") or []
        told = weights.values() if isinstance(weights, Mapping) else weights
        found += [str(item["caveat"]) for item in told if isinstance(item, Mapping) and item.get("caveat")]
        return list(dict.fromkeys(found))


def read_set(folder: Path, image_root: Path | None = None, limit: int | None = None) -> LabelledSet:
    """Read the dataset in ``folder``.

    Args:
        folder: directory with ``panoptic.json``.
        image_root: where the photos lie now; by default what ``info`` says.
        limit: read no more than the first so many photos.

    Raises:
        UsageError: it is not a dataset, or a file of it is broken.
    """
    folder = Path(folder)
    panoptic = _load(folder, "panoptic.json")
    if panoptic is None:
        raise UsageError(f"not a dataset made by tools/generate_pseudo.py: {folder} has no panoptic.json")
    try:
        categories = {c.id: c for c in map(_category, panoptic["categories"])}
        info = dict(panoptic.get("info") or {})
        root = Path(image_root) if image_root else folder / str(info.get("image_root") or ".")
        entries = _entries(folder, root, panoptic, limit)
        used = {s["category_id"] for e in entries for s in (*e.segments, *e.things()) if float(s["area"]) >= 0}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"not a dataset made by tools/generate_pseudo.py: {folder}/panoptic.json: {reason}") from error
    if unknown := used - set(categories):
        raise UsageError(f"{folder}: segments have categories that panoptic.json does not list: {sorted(unknown)[:5]}")
    return LabelledSet(folder, categories, entries, info, _load(folder, "run.json") or {})


def _load(folder: Path, name: str) -> dict[str, Any] | None:
    """The JSON object ``name``, or None where there is no such file."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / name} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{folder / name} holds a {type(value).__name__}, not a JSON object")
    return value


def _category(entry: Mapping[str, Any]) -> Category:
    from u2seg.structures import category_color

    red, green, blue = entry.get("color") or category_color(entry["id"])
    return Category(int(entry["id"]), str(entry["name"]), bool(entry["isthing"]), (int(red), int(green), int(blue)))


def _entries(folder: Path, root: Path, panoptic: Mapping[str, Any], limit: int | None) -> list[Entry]:
    labels = {annotation["image_id"]: annotation for annotation in panoptic["annotations"]}
    things = {category["id"]: bool(category["isthing"]) for category in panoptic["categories"]}
    images = panoptic["images"][:limit]
    instances = _instances(folder, {image["id"] for image in images})
    entries = []
    for image in images:
        annotation = labels.get(image["id"], {})
        name = annotation.get("file_name", "")
        entries.append(
            Entry(
                image_id=image["id"],
                name=str(image["file_name"]),
                photo=str(root / image["file_name"]),
                width=int(image["width"]),
                height=int(image["height"]),
                label=str(folder / "panoptic" / name) if name else "",
                stuff=str(folder / "stages" / "stuff" / name) if name else "",
                segments=tuple(
                    {**s, "isthing": things.get(s["category_id"], False)} for s in annotation.get("segments_info", ())
                ),
                instances=None if instances is None else tuple(instances.get(image["id"], ())),
            )
        )
    return entries


def _instances(folder: Path, wanted: set[int]) -> dict[int, list[dict[str, Any]]] | None:
    """Annotations of ``instances.json`` by image, or None where there is no such file."""
    loaded = _load(folder, "instances.json")
    if loaded is None:
        return None
    grouped: dict[int, list[dict[str, Any]]] = {}
    for annotation in loaded.get("annotations", ()):
        if annotation["image_id"] in wanted:
            grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped
