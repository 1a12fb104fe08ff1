"""The dataset that people read, made from what the stage ``merge`` left of each photo, and how it looked on disk then.

What was noted of a file when it was published (size, time of change) tells the next run at the price of a glance that
nothing has happened to it; damage that leaves both as they were is found by ``--verify``, which reads everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, MutableMapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import u2seg
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


@dataclass
class Publication:
    """What the finished dataset in ``root`` was made from, and its files as they were then."""

    root: Path
    content: str = ""
    """Hash of all that its files depend on."""
    counts: Counts = field(default_factory=Counts)
    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """Name below ``root``: size in bytes, time of change in ns, sha256."""
    _untouched: bool | None = field(default=None, repr=False)
    """Whether no file has changed since, once that was looked at."""

    @classmethod
    def read(cls, root: Path) -> Publication:
        """What the last run in ``root`` has noted; nothing where that is missing or damaged."""
        noted = read_checked(root / FILE)
        if not noted:
            return cls(root)
        files = {name: tuple(entry) for name, entry in noted["files"].items()}
        return cls(root, noted["content"], Counts(**noted["counts"]), files)

    def save(self) -> None:
        """Note it for the next run."""
        write_checked(self.root / FILE, {"content": self.content, "counts": vars(self.counts), "files": self.files})

    def is_current(self, content: str) -> bool:
        """Whether the dataset was made from ``content`` and no file of it has changed since."""
        if self.content != content:
            return False
        if self._untouched is None:
            self._untouched = all(map(self.is_untouched, self.files))
        return self._untouched

    def is_untouched(self, name: str) -> bool:
        """Whether the file ``name`` is as large and as old as it was."""
        with contextlib.suppress(OSError):
            return name in self.files and self.files[name][:2] == file_state(self.root / name)
        return False

    def has_label(self, photo: Photo, sha256: str, source: Path) -> bool:
        """Whether the label of ``photo`` with this ``sha256`` was published and has not changed since.

        Neither has ``source``, the PNG that the stage ``merge`` left, where that is still there.
        """
        name = f"panoptic/{photo.label}"
        if self.files.get(name, (0, 0, ""))[2] != sha256 or not self.is_untouched(name):
            return False
        return not source.exists() or file_state(source) == self.files[name][:2]


def drop_damaged(
    publication: Publication,
    merged: ProductIndex,
    photos: Sequence[Photo],
    keys: Mapping[int, str],
    totals: MutableMapping[str, Totals],
) -> list[Photo]:
    """Those of ``photos`` whose label is missing or damaged; what is left of it is deleted.

    PNGs that have not changed since ``publication`` need not be read; ``keys`` are those of the photos by id. What the
    others come to is noted in ``totals``, by key.
    """
    damaged = []
    for photo in photos:
        whole = _read_whole(publication, merged, photo, keys[photo.id])
        if whole is None:
            damaged.append(photo)
        else:
            totals[keys[photo.id]] = whole
    merged.drop({keys[photo.id] for photo in damaged})
    for photo in damaged:
        merged.files.path(keys[photo.id], ".png").unlink(missing_ok=True)
    return damaged


def _read_whole(publication: Publication, merged: ProductIndex, photo: Photo, key: str) -> Totals | None:
    """What the label of ``photo`` comes to, if it is there as it was made."""
    if not merged.has(key):
        return None
    try:
        totals, source = Totals.of(read_entry(merged.files, key)), merged.files.path(key, ".png")
        has_label = publication.has_label(photo, totals.png_sha256, source)
        return totals if has_label or file_sha256(source) == totals.png_sha256 else None
    except (DamagedFileError, KeyError, FileNotFoundError):
        return None


def forget_publication(root: Path) -> None:
    """Let the next run look into every file."""
    (root / FILE).unlink(missing_ok=True)


def publish(
    publication: Publication,
    merged: Intermediate,
    photos: Sequence[Photo],
    keys: Mapping[int, str],
    totals: Mapping[str, Totals],
    info: Mapping[str, Any],
    space: LabelSpace,
    content: str,
) -> Publication:
    """Write the dataset: its PNGs, its JSON files, its checksums, and the note for the next run.

    PNGs of photos that are gone are removed, out of those that an earlier run has published, and what killed runs left
    half written. ``photos`` are those that have a label, in order, with what `drop_damaged` has noted in ``totals``, so
    that each record is read once more, for the JSON files; ``content`` is a hash of all that is published.

    Raises:
        DamagedFileError: a record is damaged.
    """
    root, new = publication.root, Publication(publication.root, content)
    before = publication.files.keys() or read_checksums(root).keys()
    kept = {f"panoptic/{photo.label}" for photo in photos} | {PANOPTIC_JSON, INSTANCES_JSON, CHECKSUMS}
    _remove(root, _in_the_way(before - kept, kept))
    _publish_labels(publication, new, merged, photos, keys, totals)

    def images() -> Iterator[dict[str, Any]]:
        for photo in photos:
            size = totals[keys[photo.id]]
            yield {"id": photo.id, "file_name": photo.name, "height": size.height, "width": size.width}

    def entries() -> Iterator[Entry]:
        for photo, image in zip(photos, images(), strict=True):
            entry = read_entry(merged, keys[photo.id])
            yield Entry(image, photo.label, entry["segments"], entry["instances"])

    write_dataset(root, info, space.categories(), entries, images=images)
    for name in (PANOPTIC_JSON, INSTANCES_JSON):
        new.files[name] = (*file_state(root / name), file_sha256(root / name))
    write_checksums(root, {name: sha256 for name, (_, _, sha256) in new.files.items()})
    new.files[CHECKSUMS] = (*file_state(root / CHECKSUMS), "")
    _remove(root, before - kept)
    for folder in {os.path.dirname(name) for name in new.files}:
        sweep_parts(root / folder)
    new.save()
    return new


def _in_the_way(gone: Set[str], kept: Set[str]) -> set[str]:
    """Those of the files ``gone`` that are now a folder of one of ``kept``, or lie in a folder that is now a file."""
    folders = {
        parent for folder in {PurePosixPath(name).parent for name in kept} for parent in (folder, *folder.parents)
    }
    return {
        name
        for name in gone
        if PurePosixPath(name) in folders or any(str(parent) in kept for parent in PurePosixPath(name).parents)
    }


def _remove(root: Path, names: Set[str]) -> None:
    """Delete the files ``names`` below ``root``, and folders that are empty then."""
    for name in names:
        with contextlib.suppress(DataError, OSError):  # somebody's list leads out; others are in the folder
            path = inside(root, name)
            path.unlink(missing_ok=True)
            os.removedirs(path.parent)


def _publish_labels(
    publication: Publication,
    new: Publication,
    merged: Intermediate,
    photos: Sequence[Photo],
    keys: Mapping[int, str],
    totals: Mapping[str, Totals],
) -> None:
    """Give the PNGs of ``photos`` their names in the dataset, and note in ``new`` what they are and come to."""
    for photo in photos:
        label = totals[keys[photo.id]]
        new.counts.add(label)
        source, name = merged.path(keys[photo.id], ".png"), f"panoptic/{photo.label}"
        if not publication.has_label(photo, label.png_sha256, source):
            link(source, new.root / name)
        new.files[name] = (*file_state(new.root / name), label.png_sha256)


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it where the file system has no links."""
    if target.exists() and os.path.samefile(source, target):
        return
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)  # with its time of change, as a link has it


def describe(photo_root: Path, caveats: Sequence[str]) -> dict[str, Any]:
    """``info`` of the JSON files."""
    return {
        "description": f"pseudo labels made by u2seg {u2seg.__version__}; no human looked at them",
        "image_root": str(photo_root),
        "caveats": list(caveats),
    }
