"""Where each photo's record of one product lies: in a file of its own, or with many others in a shard.

Only the process that holds the run's lock packs, drops and sweeps; workers write files and read. So no two processes
ever change a shard, and a worker that outlives its run can do no harm.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from u2seg.files import sweep_parts
from u2seg.pseudo.intermediate import (
    SHARD_ENDING,
    DamagedFileError,
    Intermediate,
    list_records,
    undamaged,
    write_shard,
)

logger = logging.getLogger(__name__)

PACKED = ("masks", "stuff", "merge")
"""Products that are kept; features go as soon as their photo is labelled."""
SHARD_RECORDS = 1000
"""Records of a full shard."""
FEWEST_RECORDS = 100
"""Records that are worth a shard; fewer stay files."""


class ProductIndex(Intermediate):
    """All records of one product with one fingerprint, and where each is."""

    def __init__(self, root: Path, product: str, fingerprint: str) -> None:
        """Read the directories of the shards, and list the files, of ``product`` in the output directory ``root``.

        A shard whose directory is damaged is deleted.
        """
        super().__init__(root, product, fingerprint)
        self._sizes: Counter[str] = Counter()
        self._fresh: list[str] = []
        for path in sorted(self.folder.glob(f"[!.]*{SHARD_ENDING}")):
            try:
                with undamaged(path):
                    self._add(path.name, list_records(path))
            except DamagedFileError as error:
                logger.warning("%s: the %s of its photos are made again", error, product)
        self.refresh()

    def _add(self, shard: str, names: Sequence[str]) -> list[str]:
        """Note that ``shard`` has the records ``names``; their keys."""
        keys = [name.removesuffix(self.ending) for name in names]
        self.shards.update(dict.fromkeys(keys, shard))
        if keys:
            self._sizes[shard] = len(keys)
        return keys

    def refresh(self) -> None:
        """List the files that workers have left."""
        ending = self.ending
        names = (entry.name for entry in self._loose_files())
        self.loose = {name.removesuffix(ending) for name in names if name.endswith(ending) and name[0] != "."}

    def _loose_files(self) -> Iterator[os.DirEntry[str]]:
        folder = self.folder
        for below in os.scandir(folder) if folder.is_dir() else ():
            if below.is_dir():
                yield from os.scandir(below)

    def has(self, key: str) -> bool:
        """Whether there is a record of the photo with ``key``."""
        return key in self.shards or key in self.loose

    def view(self, keys: Iterable[str]) -> Intermediate:
        """The records as a worker is told of them: where those of ``keys`` are."""
        here = {key: self.shards[key] for key in keys if key in self.shards}
        return Intermediate(self.root, self.product, self.fingerprint, here)

    def pack(self, keys: Iterable[str]) -> None:
        """Move the records of ``keys`` that are files of their own into a shard."""

        def records() -> Iterator[tuple[str, bytes]]:
            for path in map(self.path, dict.fromkeys(keys)):
                with contextlib.suppress(FileNotFoundError):
                    yield path.name, path.read_bytes()

        packed = self._add(*write_shard(self.folder, records()))
        self.loose.difference_update(packed)
        for key in packed:
            self.path(key).unlink(missing_ok=True)

    def note(self, keys: Iterable[str]) -> None:
        """Take note that workers may have left files of ``keys``; those of a full shard are packed."""
        self._fresh += keys
        if len(self._fresh) >= SHARD_RECORDS:
            self.pack(self._fresh)
            self._fresh = []

    def pack_many(self, keys: Iterable[str]) -> None:
        """Pack those of ``keys`` that are files, in order, a full shard at a time; a few that are left over stay."""
        loose = [key for key in keys if key in self.loose]
        for start in range(0, len(loose), SHARD_RECORDS):
            if len(loose) - start >= FEWEST_RECORDS:
                self.pack(loose[start : start + SHARD_RECORDS])

    def drop(self, keys: Collection[str]) -> None:
        """Delete the records of ``keys``, and whatever else in their shards turns out damaged."""
        for key in keys:
            self.path(key).unlink(missing_ok=True)
        self.loose.difference_update(keys)
        self._rewrite({self.shards[key] for key in keys if key in self.shards}, lambda key: key not in keys)

    def _rewrite(self, shards: Collection[str], stays: Callable[[str], bool]) -> None:
        """Replace each of ``shards`` by one with those of its records that are whole and whose key ``stays``."""
        keys_of: dict[str, list[str]] = {shard: [] for shard in shards}
        for key, shard in self.shards.items() if shards else ():
            if shard in keys_of:
                keys_of[shard].append(key)
        for shard, keys in keys_of.items():
            new, names = write_shard(self.folder, self._whole_records(filter(stays, keys)))
            for key in keys:
                del self.shards[key]
            del self._sizes[shard]
            self._add(new, names)
            (self.folder / shard).unlink(missing_ok=True)

    def _whole_records(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Name and content of each record of ``keys`` that can be read."""
        for key in keys:
            with contextlib.suppress(DamagedFileError), self.reading(key) as content:
                yield f"{key}{self.ending}", content

    def sweep(self, current: Collection[str]) -> None:
        """Delete what no photo of the run, with keys ``current``, needs, and what killed runs left half written.

        A shard of which under half of the records are needed is replaced by a smaller one.
        """
        folder = self.folder
        for entry in os.scandir(folder.parent) if folder.parent.is_dir() else ():
            if entry.name != folder.name:
                shutil.rmtree(entry.path, ignore_errors=True)
        if not folder.is_dir():
            return
        sweep_parts(folder)
        for entry in self._loose_files():
            if entry.name.split(".")[0] not in current:
                Path(entry.path).unlink(missing_ok=True)  # a worker that outlived its run may have moved it
        self.loose.intersection_update(current)
        needed = Counter(shard for key, shard in self.shards.items() if key in current)
        self._rewrite([s for s, size in self._sizes.items() if 2 * needed[s] < size], current.__contains__)
