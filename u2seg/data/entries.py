"""A training set in one file that all processes of a machine map into memory.

So there is one copy, whatever the number of GPUs and of loader workers, and it lies in the system's file cache.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.utils import comm

from u2seg.errors import U2SegError

Sample = dict[str, Any]
_NUMBER = 8
"""Bytes."""


class EntryFile(Sequence[Sample]):
    """Entries of a file that `write_entries` wrote; the file may be deleted once this is made.

    A tensor, since torch shares its memory with workers that are spawned, too.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            content = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
        numbers = content.view(torch.int64)
        self._content, self._ends = content, numbers[-1 - int(numbers[-1]) : -1]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        return pickle.loads(memoryview(self._content[start : int(self._ends[place])].numpy()))  # type: ignore[arg-type]


def write_entries(file: BinaryIO, entries: Iterable[Sample]) -> None:
    """Write ``entries`` one at a time: their pickles, where each ends, and how many there are."""
    ends = array("q")
    for entry in entries:
        file.write(pickle.dumps(entry, -1))
        ends.append(file.tell())
    file.write(bytes(-file.tell() % _NUMBER) + ends.tobytes() + array("q", [len(ends)]).tobytes())
    file.flush()


def share_entries(entries: Callable[[], Iterable[Sample]]) -> EntryFile:
    """The entries that ``entries`` gives, called in one process of each machine alone; all processes must call this.

    The file lies in the folder for temporary files (``TMPDIR``), and has no name any more when this returns.

    Raises:
        U2SegError: what ``entries`` raised, in every process.
    """
    writes = comm.get_world_size() == 1 or comm.get_local_rank() == 0
    path, error = "", None
    try:
        if writes:
            with tempfile.NamedTemporaryFile(prefix="u2seg_entries_", delete=False) as file:
                path = file.name
                try:
                    write_entries(file, entries())  # type: ignore[arg-type]
                except U2SegError as reason:
                    error = reason
        results = comm.all_gather((path, error))
        for _, each in results:
            if each is not None:
                raise each
        rank = comm.get_rank()
        shared = EntryFile(Path(results[rank if writes else rank - comm.get_local_rank()][0]))
        comm.synchronize()
        return shared
    finally:
        if path:
            os.unlink(path)
