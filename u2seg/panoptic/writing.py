"""The writer of panoptic datasets; PNGs are written by whoever makes them.

Nothing is in memory but what is written at the moment.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from u2seg.files import replacing

PANOPTIC_JSON, INSTANCES_JSON, RUN_JSON = "panoptic.json", "instances.json", "run.json"


class Entry(NamedTuple):
    """What the JSON files say of one photo."""

    image: Mapping[str, Any]
    """Entry of ``images``: ``id``, ``file_name``, ``height``, ``width``."""
    label: str
    """The PNG below the panoptic root."""
    segments: Sequence[Mapping[str, Any]]
    """``segments_info``"""
    instances: Sequence[Mapping[str, Any]] = ()
    """Annotations for ``instances.json`` without ``id`` and ``image_id``, as `instance_entry` makes them."""


def write_dataset(
    root: Path,
    info: Mapping[str, Any],
    categories: Sequence[Mapping[str, Any]],
    entries: Callable[[], Iterable[Entry]],
    instances: bool = True,
    images: Callable[[], Iterable[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write ``instances.json``, then ``panoptic.json``, whose presence says that the dataset is whole.

    Args:
        root: the dataset's directory, with the PNGs in it already.
        info: ``image_root`` and whatever else there is to say of the set.
        categories: as `LabelSpace.categories` gives them.
        entries: called for each pass over them, so that they need not be in memory at once.
        instances: whether to write ``instances.json``.
        images: called for each list of images; by default they are taken from ``entries``.

    Returns:
        ``panoptic.json``.
    """
    images = images or (lambda: (entry.image for entry in entries()))
    kinds = {PANOPTIC_JSON: categories}
    if instances:
        kinds[INSTANCES_JSON] = [category for category in categories if category["isthing"]]
    with contextlib.ExitStack() as files:  # the last is closed, and so put in its place, first
        add = {
            name: files.enter_context(
                writing_json(root / name, {"info": info, "categories": kind}, {"images": images(), "annotations": ()})
            )
            for name, kind in kinds.items()
        }
        counter = itertools.count(1)
        for entry in entries():
            image_id = entry.image["id"]
            add[PANOPTIC_JSON]({"image_id": image_id, "file_name": entry.label, "segments_info": entry.segments})
            for instance in entry.instances if instances else ():
                add[INSTANCES_JSON]({"id": next(counter), "image_id": image_id, **instance})
    return root / PANOPTIC_JSON


@contextlib.contextmanager
def writing_json(
    path: Path, head: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]
) -> Iterator[Callable[[Any], None]]:
    """Write ``{**head, **lists}`` as JSON, one entry at a time; the block may add entries to the last list."""
    with replacing(path) as temporary, open(temporary, "w", encoding="ascii") as text:
        separator = ""

        def add(entry: Any) -> None:
            nonlocal separator
            text.write(separator + json.dumps(entry))
            separator = ",\n"

        text.write("{" + "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()))
        for index, (key, entries) in enumerate(lists.items()):
            text.write(("\n],\n" if index else "") + f"{json.dumps(key)}: [")
            separator = "\n"
            for entry in entries:
                add(entry)
        yield add
        text.write("\n]}\n")
