"""A training set in one file that all processes of a machine map into memory.

So there is one copy, whatever the number of GPUs and of loader workers, and it lies in the system's file cache.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import torch
from detectron2.utils import comm

from u2seg.errors import U2SegError, UsageError
from u2seg.panoptic.photos import OnDemand

Sample = dict[str, Any]
PREFIX = "u2seg_entries_"
_NUMBER = 8
"""Bytes."""


class EntryFile(OnDemand[Sample]):
    """Entries of a file that `write_entries` wrote; it may be closed and deleted once this is made.

    A tensor, since torch shares its memory with workers that are spawned, too.
    """

    def __init__(self, file: BinaryIO) -> None:
        content = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
        numbers = content.view(torch.int64)
        self._content, self._ends = content, numbers[-1 - int(numbers[-1]) : -1]

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, place: int) -> Sample:
        """The entry at ``place``."""
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

    The file lies in the folder for temporary files (``TMPDIR``) and never has a name, so that nothing is left of
    processes that are killed: the other ones of the machine open it through ``/proc``.

    Raises:
        UsageError: the file can't be written.
        U2SegError: what ``entries`` raised, in every process.
    """
    file: BinaryIO
    writes, path, error = comm.get_local_rank() == 0, "", None
    with _in_words(), contextlib.ExitStack() as stack:  # closing the file may fail on what writing failed on
        try:
            if writes:
                with _in_words():
                    file = stack.enter_context(tempfile.TemporaryFile(prefix=PREFIX))
                    write_entries(file, entries())
                path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        except (U2SegError, OSError) as reason:
            error = reason
        results = comm.all_gather((path, error))
        for _, each in results:
            if each is not None:
                raise each
        if not writes:
            file = stack.enter_context(open(results[comm.get_rank() - comm.get_local_rank()][0], "rb"))
        of_all = EntryFile(file)
        comm.synchronize()
        return of_all


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Say what keeps the file from being written; of other files, the system's errors have the names."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise UsageError(
            f"the list of the photos to train on can't be written to {tempfile.tempdir}: {error.strerror}; "
            "the environment variable TMPDIR names another folder"
        ) from error
