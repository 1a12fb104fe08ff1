"""On which device work runs, with how many threads, how progress shows, and how a tool ends."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from u2seg.errors import U2SegError, UsageError, printable
from u2seg.tool import DEBUG_VARIABLE, Stoppable, end_children, quiet

logger = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0
"""Of progress, where there is no terminal."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""
LARGEST_KEPT = 32 * 2**20
"""Bytes of the largest array whose memory `keep_memory` keeps: the most that glibc allows."""
RANK_VARIABLE = "_U2SEG_WORKER_RANK"
"""Set in worker processes to their number, from 0."""
_REMOTE_ERROR = re.compile(rf"\n{re.escape(U2SegError.__module__)}\.\w+: (.*)\s*\Z")
"""The last line of a traceback that ends in an error of ours."""


def default_workers(threads: int) -> int:
    """One worker per GPU; without a GPU one per ``threads`` cores that this process may use."""
    import torch

    return torch.cuda.device_count() or max(1, available_cores() // threads)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_device(device: str) -> str:
    """The torch device of this worker for ``U2SEG.DEVICE``: ``auto`` is its own GPU, or the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    import torch

    count = torch.cuda.device_count()
    if device != "auto":
        known = ["cpu", "mps", "cuda", *(f"cuda:{index}" for index in range(count))]
        if device not in known or (device == "cuda" and not count):
            raise UsageError(
                f"U2SEG.DEVICE {device!r} is not here; this machine has {count} CUDA devices; auto takes any"
            )
        return device
    return f"cuda:{int(os.environ.get(RANK_VARIABLE, '0')) % count}" if count else "cpu"


_note: Any = None
"""Memory that this worker shares with its parent."""


def share_work(note: Any) -> None:
    """Let `at_work` write into ``note``, an array of bytes in shared memory."""
    global _note
    _note = note


@contextlib.contextmanager
def at_work(what: str) -> Iterator[None]:
    """Let the parent know that this worker is at ``what`` inside the block, in case that it does not come back."""
    if _note is None:
        yield
        return
    _note.value = what.encode()[: len(_note) - 1]
    try:
        yield
    finally:
        _note.value = b""


@contextlib.contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """Let BLAS, OpenMP and torch use ``threads`` threads inside the block."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Let this process keep the memory of arrays that it has freed, up to 1 GB, for those to come.

    By default glibc gives it back to the kernel, which then clears each page again: 100,000 times a photo, an eighth of
    the time of a worker. Without glibc nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library of all symbols
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


class Progress:
    """Counts photos of one stage; use as a context manager and call `advance`."""

    def __init__(self, title: str, total: int, unit: str = "photo") -> None:
        from tqdm import tqdm

        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._started = self._said = time.monotonic()
        self._bar = tqdm(total=total, desc=title, unit=unit, disable=None)  # None: it shows on a terminal alone

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more are done."""
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            rate = self.done / (now - self._started)
            left = readable_seconds((self.total - self.done) / rate) if rate else "an unknown time"
            done = f"{self.done} of {self.total} {self.unit}s"
            logger.info("%s: %s, %.2f a second, %s left", self.title, done, rate, left)


def track(items: Iterable[T], title: str, total: int, unit: str = "photo") -> Iterator[T]:
    """``items``, ``total`` in number, with progress shown."""
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def readable_seconds(seconds: float) -> str:
    """``95.0`` as ``1 min 35 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def run_tool(main: Callable[[], int | None], resume: str = "run the same command again to resume") -> int:
    """Call ``main`` and return the exit code; ``resume`` says in messages what to do after a stop.

    0 is success; 1 an error of the system, 2 of what the user gave, 130 Ctrl-C, 143 SIGTERM. What a run wrote before
    stays. A second Ctrl-C kills.
    """
    level = logging.DEBUG if os.environ.get(DEBUG_VARIABLE) == "1" else logging.INFO
    logging.getLogger("u2seg").setLevel(level)
    quiet()
    handler = logging.StreamHandler(sys.stderr)
    make_record = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_printable_record)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names need not be in the terminal's encoding
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
    try:
        with Stoppable() as stop:
            return _call(main, resume, stop)
    finally:
        logging.setLogRecordFactory(make_record)
        # Whoever calls several tools in one process may have turned stderr elsewhere by the next.
        root.removeHandler(handler)


def _call(main: Callable[[], int | None], resume: str, stop: Stoppable) -> int:
    """The exit code of ``main``, errors said in one line."""
    try:
        return main() or 0
    except KeyboardInterrupt:
        stop.code = stop.code or 130
    except Exception as error:
        if not stop.code:  # else it is that of a worker which was stopped first
            return _fail(error, resume)
    end_children()
    return _complain(f"stopped; what is done stays; {resume}", stop.code)


def _fail(error: Exception, resume: str) -> int:
    """The exit code of a tool that ended in ``error``, which is said in one line; or the error itself."""
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()
        return 0
    if isinstance(error, OSError) and error.errno is not None:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{what}{where}; what is done stays; {resume}", 1)
    if isinstance(error, MemoryError):
        return _complain(f"out of memory; {resume}, with fewer workers", 1)
    # torch's processes and loader workers send an error as the text of its traceback
    remote = _REMOTE_ERROR.search(str(error))
    if remote is None and not isinstance(error, U2SegError):
        raise error
    return _complain(remote[1] if remote else str(error), 2)


def _printable_record(name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
    """A record of this package keeps the control characters of file names from the terminal."""
    record = logging.LogRecord(name, *args, **kwargs)
    if name.startswith("u2seg"):
        record.msg, record.args = printable(record.getMessage()), ()
    return record


def _complain(message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        logging.getLogger(__name__).exception("traceback, since %s is set", DEBUG_VARIABLE)
    name = os.path.basename(sys.argv[0])
    sys.stderr.write(f"{name}: error: {printable(' '.join(message.split()))}\n")
    return code
