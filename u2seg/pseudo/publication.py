"""The dataset that people read, made from what the stage ``merge`` left of each photo, and how it looked on disk then.

What was noted of a file when it was published (size, time of change) tells the next run at the price of a glance that
nothing has happened to it; damage that leaves both as they were is found by ``--verify``, which reads everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from u2seg.errors import DataError
from u2seg.fields import inside
from u2seg.files import file_sha256, file_state, read_checked, replacing, sweep_parts, write_checked
from u2seg.images import Photo
from u2seg.panoptic import INSTANCES_JSON, PANOPTIC_JSON, Entry, write_dataset
from u2seg.pseudo.index import ProductIndex
from u2seg.pseudo.intermediate import DamagedFileError, Intermediate, read_entry
from u2seg.pseudo.record import CHECKSUMS, Counts, Totals, read_checksums, write_checksums
from u2seg.structures import LabelSpace

FILE = Path("stages") / "published.json"
FileState = tuple[int, int, str]


class Publication:
    """The finished dataset in one directory: what it was made from, and its files as they were then."""

    def __init__(self, root: Path) -> None:
        """Read what the last run in ``root`` has noted; nothing where that is missing or damaged."""
        noted = read_checked(root / FILE)
        self.root = root
        self.content: str = noted.get("content", "")
        """Hash of all that its files depend on."""
        self.counts = Counts(**noted.get("counts", {}))
        self.files: dict[str, FileState] = {name: tuple(entry) for name, entry in noted.get("files", {}).items()}
        """Name below the directory: size in bytes, time of change in ns, sha256."""
        self._totals: dict[str, Totals] = {}

    def is_current(self, content: str) -> bool:
        """Whether the dataset was made from ``content`` and no file of it has changed since."""
        return self.content == content and self._are_untouched

    @cached_property
    def _are_untouched(self) -> bool:
        return all(map(self._is_untouched, self.files))

    def _is_untouched(self, name: str) -> bool:
        """Whether the file ``name`` is as large and as old as it was."""
        with contextlib.suppress(OSError):
            return self.files[name][:2] == file_state(self.root / name)
        return False

    def _has_label(self, photo: Photo, sha256: str) -> bool:
        """Whether the label of ``photo`` with this ``sha256`` was published and has not changed since."""
        name = f"panoptic/{photo.label}"
        return name in self.files and self.files[name][2] == sha256 and self._is_untouched(name)

    def drop_damaged(self, merged: ProductIndex, photos: Mapping[str, Photo]) -> dict[str, Photo]:
        """Those of ``photos``, by key, whose label is missing or damaged; what is left of it is deleted.

        PNGs that have not changed since they were published need not be read. What the others come to is noted.
        """
        damaged = {key: photo for key, photo in photos.items() if not self._is_whole(merged, photo, key)}
        merged.drop(damaged.keys())
        for key in damaged:
            merged.path(key, ".png").unlink(missing_ok=True)
        return damaged

    def _is_whole(self, merged: ProductIndex, photo: Photo, key: str) -> bool:
        if not merged.has(key):
            return False
        try:
            totals = self._totals[key] = Totals.of(read_entry(merged, key))
            sha256 = totals.png_sha256
            return self._has_label(photo, sha256) or file_sha256(merged.path(key, ".png")) == sha256
        except (DamagedFileError, KeyError, FileNotFoundError):
            return False

    def publish(
        self,
        merged: Intermediate,
        photos: Mapping[str, Photo],
        info: Mapping[str, Any],
        space: LabelSpace,
        content: str,
    ) -> None:
        """Write the dataset: its PNGs, its JSON files, its checksums, and the note for the next run.

        PNGs of photos that are gone are removed, out of those that an earlier run has published, and what killed runs
        left half written. ``photos``, by key, have a label that `drop_damaged` has looked at, so each record is read
        once more, for the JSON files; ``content`` is a hash of all that is published.

        Raises:
            DamagedFileError: a record is damaged.
        """
        root = self.root
        before = self.files.keys() or read_checksums(root).keys()
        kept = {f"panoptic/{photo.label}" for photo in photos.values()} | {PANOPTIC_JSON, INSTANCES_JSON, CHECKSUMS}
        _remove(root, _in_the_way(before - kept, kept))
        files = self._publish_labels(merged, photos)

        def images() -> Iterator[dict[str, Any]]:
            for key, photo in photos.items():
                size = self._totals[key]
                yield {"id": photo.id, "file_name": photo.name, "height": size.height, "width": size.width}

        def entries() -> Iterator[Entry]:
            for (key, photo), image in zip(photos.items(), images(), strict=True):
                entry = read_entry(merged, key)
                yield Entry(image, photo.label, entry["segments"], entry["instances"])

        write_dataset(root, info, space.categories(), entries, images=images)
        for name in (PANOPTIC_JSON, INSTANCES_JSON):
            files[name] = (*file_state(root / name), file_sha256(root / name))
        write_checksums(root, {name: sha256 for name, (_, _, sha256) in files.items()})
        files[CHECKSUMS] = (*file_state(root / CHECKSUMS), "")
        _remove(root, before - kept)
        for folder in {os.path.dirname(name) for name in files}:
            sweep_parts(root / folder)
        self.content, self.files = content, files
        write_checked(root / FILE, {"content": content, "counts": vars(self.counts), "files": files})

    def _publish_labels(self, merged: Intermediate, photos: Mapping[str, Photo]) -> dict[str, FileState]:
        """Give the PNGs of ``photos`` their names in the dataset, and count what they come to; the files."""
        files, self.counts = {}, Counts()
        for key, photo in photos.items():
            sha256, name = self._totals[key].png_sha256, f"panoptic/{photo.label}"
            if not self._has_label(photo, sha256):
                link(merged.path(key, ".png"), self.root / name)
            files[name] = (*file_state(self.root / name), sha256)
            self.counts.add(self._totals[key])
        return files


def forget_publication(root: Path) -> None:
    """Let the next run look into every file."""
    (root / FILE).unlink(missing_ok=True)


def _in_the_way(gone: Set[str], kept: Set[str]) -> set[str]:
    """Those of the files ``gone`` that are now a folder of one of ``kept``, or lie in a folder that is now a file."""
    lowest = {PurePosixPath(name).parent for name in kept}
    folders = {str(parent) for folder in lowest for parent in (folder, *folder.parents)}
    return {name for name in gone if name in folders or any(str(p) in kept for p in PurePosixPath(name).parents)}


def _remove(root: Path, names: Set[str]) -> None:
    """Delete the files ``names`` below ``root``, and folders that are empty then."""
    for name in names:
        with contextlib.suppress(DataError, OSError):  # somebody's list leads out; others are in the folder
            path = inside(root, name)
            path.unlink(missing_ok=True)
            os.removedirs(path.parent)


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it where the file system has no links."""
    if target.exists() and os.path.samefile(source, target):
        return
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)  # with its time of change, as a link has it
