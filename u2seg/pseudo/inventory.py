"""Which photos of a run are known from earlier runs: ids stay, and a photo whose content changed is noticed."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from u2seg.files import file_sha256, read_checked, write_checked
from u2seg.images import Photo, PhotoSet

logger = logging.getLogger(__name__)

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Inventory:
    """The photos of a run, each with the name of its intermediate files."""

    photos: tuple[Photo, ...]
    """In order of their id."""
    keys: Mapping[int, str]
    """Photo id to 16 hexadecimal digits that change with its name or its content."""
    table: Mapping[str, Any]
    """By name: id, size in bytes, time of change in ns, sha256 of the content."""
    file: Path
    """Where the table is kept for the next run."""
    is_new: bool
    """Whether the table differs from that of the last run."""

    def save(self) -> None:
        """Keep the table for the next run, if it is another one."""
        if self.is_new:
            write_checked(self.file, dict(self.table))

    @cached_property
    def digest(self) -> str:
        """Hash of which photos there are, with their ids and contents."""
        text = "\n".join(f"{photo.id} {self.keys[photo.id]}" for photo in self.photos)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def take_inventory(photos: PhotoSet, file: Path, keep_ids: bool = True) -> Inventory:
    """Compare ``photos`` with those of the last run, whose table is in ``file``, and log how they differ.

    Content is read only where size or time of change differ from the table's. With ``keep_ids``, photos keep the ids
    that they had, and new ones get the next free ones; a COCO JSON brings ids of its own.
    """
    before = read_checked(file)
    entries = {photo.name: _examine(photo, before.get(photo.name)) for photo in photos.photos}
    numbered = _number(photos.photos, before) if keep_ids else photos.photos
    table = {photo.name: [photo.id, *entries[photo.name]] for photo in numbered}
    if before:
        _report(before, table)
    keys = {}
    for photo in numbered:
        text = f"{photo.name}\n{entries[photo.name][2]}"
        keys[photo.id] = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return Inventory(tuple(sorted(numbered, key=lambda photo: photo.id)), keys, table, file, table != before)


def _examine(photo: Photo, before: Any) -> tuple[int, int, str]:
    """Size, time of change and sha256 of the file of ``photo``."""
    try:
        status = os.stat(photo.path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            return 0, 0, UNREADABLE
        changed = max(status.st_mtime_ns, status.st_ctime_ns)  # copies may keep the former, but not on POSIX the latter
        if before and before[1:3] == [status.st_size, changed] and before[3] != UNREADABLE:
            return status.st_size, changed, before[3]
        return status.st_size, changed, file_sha256(Path(photo.path))
    except (OSError, ValueError):
        return 0, 0, UNREADABLE  # whoever reads it says why


def _number(photos: tuple[Photo, ...], before: Mapping[str, Any]) -> tuple[Photo, ...]:
    """``photos`` with the ids of the last run, new ones with the next free ids."""
    known = {name: entry[0] for name, entry in before.items()}
    free = max(known.values(), default=0)
    numbered = []
    for photo in photos:
        if photo.name not in known:
            free += 1
        number = known.get(photo.name, free)
        numbered.append(photo if photo.id == number else replace(photo, id=number))
    return tuple(numbered)


def _report(before: Mapping[str, Any], table: Mapping[str, Any]) -> None:
    new = len(table.keys() - before.keys())
    gone = len(before.keys() - table.keys())
    changed = sum(before[name][3] != table[name][3] for name in table.keys() & before.keys())
    if new or gone or changed:
        logger.info("photos since the last run: %d new, %d changed, %d gone", new, changed, gone)
