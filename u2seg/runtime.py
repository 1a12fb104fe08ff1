"""How work is run: over processes or a cluster, on which device, with how many threads, and how a tool ends.

What a job gives does not depend on who runs it: photos are handled one by one (or in batches that are cut the same way
everywhere) with the same number of threads.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

from u2seg.errors import U2SegError, UsageError, lookup, printable

logger = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")

DEBUG_VARIABLE = "U2SEG_DEBUG"
"""Set to 1, errors come with their traceback."""
SECONDS_BETWEEN_LINES = 10.0
"""Of progress, where there is no terminal."""
_RANK_VARIABLE = "_U2SEG_WORKER_RANK"
_REMOTE_ERROR = re.compile(rf"\n{re.escape(U2SegError.__module__)}\.\w+: (.*)\s*\Z")
"""The last line of a traceback that ends in an error of ours."""


class InlineExecutor(Executor):
    """Runs each call at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call ``fn`` now; the future that comes back is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # it belongs to whoever asks for the result
            future.set_exception(error)
        return future


def make_executor(name: str, workers: int, threads: int, address: str = "") -> Executor:
    """Build the executor that ``U2SEG.EXECUTOR`` names.

    Args:
        name: ``inline``, ``process`` or ``dask``.
        workers: processes; 0 takes one per GPU, or as many as the cores give at ``threads`` each.
        threads: threads of a worker.
        address: of the Dask scheduler.

    Raises:
        UsageError: no such executor, or it can't be had.
    """
    if workers < 0 or threads < 1:
        raise UsageError(f"U2SEG.EXECUTOR.WORKERS must be 0 or more and THREADS 1 or more, not {workers} and {threads}")
    makers: dict[str, Callable[[], Executor]] = {
        "inline": InlineExecutor,
        "process": lambda: _processes(workers or default_workers(threads)),
        "dask": lambda: _dask(address),
    }
    return lookup("executor (U2SEG.EXECUTOR.NAME)", name, makers)()


def default_workers(threads: int) -> int:
    """One worker per GPU; without a GPU one per ``threads`` cores that this process may use."""
    import torch

    return torch.cuda.device_count() or max(1, available_cores() // threads)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processes(workers: int) -> Executor:
    if workers == 1:
        return InlineExecutor()
    # A forked child of a process that has used torch's threads or CUDA hangs; a spawned one does not.
    context = multiprocessing.get_context("spawn")
    ranks = context.Queue()
    for rank in range(workers):
        ranks.put(rank)
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(ranks,))


def _start_worker(ranks: Any) -> None:
    """Remember which worker this is, so that each gets a GPU of its own; leave Ctrl-C to the parent."""
    import signal

    os.environ[_RANK_VARIABLE] = str(ranks.get())
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _dask(address: str) -> Executor:
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("U2SEG.EXECUTOR.NAME dask needs Dask: pip install 'u2seg[dask]'") from error
    if not address:
        raise UsageError("U2SEG.EXECUTOR.NAME dask needs U2SEG.EXECUTOR.ADDRESS, such as tcp://host:8786")
    try:
        return Client(address, timeout="15s").get_executor(pure=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at U2SEG.EXECUTOR.ADDRESS {address!r}: {error}") from error


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
    return f"cuda:{int(os.environ.get(_RANK_VARIABLE, '0')) % count}" if count else "cpu"


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


def run_jobs(
    executor: Executor, function: Callable[[Job], Result], jobs: Sequence[Job], done: Callable[[Job, Result], None]
) -> None:
    """Run ``function`` on each job, and ``done`` here with each result as it comes.

    Raises:
        U2SegError: a worker died; the work that was done stays on disk.
        Exception: whatever ``function`` raised; jobs that have not begun are cancelled.
    """
    if isinstance(executor, InlineExecutor):
        for job in jobs:
            done(job, function(job))
        return
    futures = {executor.submit(function, job): job for job in jobs}
    completed = as_completed(futures)
    if futures and not isinstance(next(iter(futures)), Future):
        from distributed import as_completed as dask_as_completed

        completed = dask_as_completed(list(futures))
    try:
        with _deaths_in_words():
            for future in completed:
                done(futures[future], future.result())
    finally:
        for future in futures:
            future.cancel()


def run_in_order(
    executor: Executor, function: Callable[[Job], Result], jobs: Sequence[Job], window: int
) -> Iterator[Result]:
    """Results of ``function`` in the order of ``jobs``, at most ``window`` of them in memory.

    Raises:
        U2SegError: a worker died; the work that was done stays on disk.
        Exception: whatever ``function`` raised; jobs that have not begun are cancelled.
    """
    waiting: list[Any] = []
    try:
        with _deaths_in_words():
            for job in jobs:
                waiting.append(executor.submit(function, job))
                if len(waiting) >= window:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def _deaths_in_words() -> Iterator[None]:
    """Say what may have killed a worker process.

    Raises:
        U2SegError: the block met one that died.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise U2SegError(
            "a worker process died, most likely for want of memory; run the same command again to resume, with fewer "
            "workers (U2SEG.EXECUTOR.WORKERS 1, or --workers 1) if it happens again"
        ) from error


class Progress:
    """Counts photos of one stage; use as a context manager and call `advance`."""

    def __init__(self, title: str, total: int, unit: str = "photo") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._started = self._said = time.monotonic()
        self._bar = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.title, unit=self.unit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES and self.done:
            self._said = now
            left = (now - self._started) / self.done * (self.total - self.done)
            rate = self.done / (now - self._started)
            logger.info(
                "%s: %d of %d %ss, %.2f a second, %s left",
                self.title,
                self.done,
                self.total,
                self.unit,
                rate,
                readable_seconds(left),
            )


def readable_seconds(seconds: float) -> str:
    """``95.0`` as ``1 min 35 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def run_tool(main: Callable[[], int | None], resume: str = "run the same command again to resume") -> int:
    """Call ``main`` and return the exit code.

    0 is success; 1 an error of the system, 2 of what the user gave, 130 Ctrl-C. What a run wrote before stays.

    Args:
        main: the tool.
        resume: what to do after a stop, for messages.
    """
    level = logging.DEBUG if os.environ.get(DEBUG_VARIABLE) == "1" else logging.INFO
    logging.getLogger("u2seg").setLevel(level)
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
        return _call(main, resume)
    finally:
        logging.setLogRecordFactory(make_record)
        # Whoever calls several tools in one process may have turned stderr elsewhere by the next.
        root.removeHandler(handler)


def _call(main: Callable[[], int | None], resume: str) -> int:
    """The exit code of ``main``, errors said in one line."""
    try:
        return main() or 0
    except KeyboardInterrupt:
        return _complain(f"stopped; {resume}", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{what}{where}; what is done stays; {resume}", 1)
    except MemoryError:
        return _complain(f"out of memory; {resume}, with fewer workers", 1)
    except Exception as error:
        # torch's processes and loader workers send an error as the text of its traceback
        remote = _REMOTE_ERROR.search(str(error))
        if remote is None and not isinstance(error, U2SegError):
            raise
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
