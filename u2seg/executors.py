"""Who runs the work: this process, worker processes, or a Dask cluster.

What a job gives does not depend on who runs it: photos are handled one by one (or in batches that are cut the same way
everywhere) with the same number of threads.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from u2seg.errors import UsageError, lookup
from u2seg.runtime import RANK_VARIABLE, default_workers, keep_memory, share_work
from u2seg.tool import quiet

logger = logging.getLogger(__name__)

LONGEST_NOTE = 200
"""Bytes of what a worker says that it is at."""


class InlineExecutor(Executor):
    """Runs each call at once, in this process. A photo that takes its worker down takes the whole run down."""

    workers = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call ``fn`` now; the future that comes back is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # it belongs to whoever asks for the result
            future.set_exception(error)
        return future


class ProcessExecutor(Executor):
    """Worker processes that end with this one, and can be started again after one has died.

    Used as a context manager, it kills its workers where the block ends with an error or with Ctrl-C: what they write
    is whole or absent, so nothing has to be waited for.
    """

    def __init__(self, workers: int, preload: Sequence[str] = ()) -> None:
        """Start ``workers`` processes once there is work; ``preload`` as of `make_executor`."""
        self.workers, self._preload = workers, preload
        self._start()

    def _start(self) -> None:
        context = _context(self._preload)
        ranks = context.Queue()
        for rank in range(self.workers):
            ranks.put(rank)
        self._at_work = context.RawArray("c", LONGEST_NOTE)
        initargs = (ranks, self._at_work, dict(os.environ))
        self._pool = ProcessPoolExecutor(self.workers, context, initializer=_start_worker, initargs=initargs)
        self._processes: set[Any] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """As `concurrent.futures.Executor.submit`, but that the future raises what a broken pool does."""
        before = set(multiprocessing.active_children())
        try:
            future = self._pool.submit(fn, *args, **kwargs)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        self._processes |= set(multiprocessing.active_children()) - before
        return future

    def restart(self) -> tuple[str, str]:
        """Start again after a worker has died: how it did, in words, and at what if nothing else was at work."""
        self.kill()
        self._pool.shutdown()
        endings = {_ending(process.exitcode) for process in self._processes} - {""}
        part = self._at_work.value.decode(errors="ignore")  # as `u2seg.runtime.at_work` notes it
        self._start()
        return " and ".join(sorted(endings)) or "it died", part

    def kill(self) -> None:
        """Kill all workers."""
        for process in self._processes:
            process.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.shutdown(cancel_futures=kind is not None)


def _context(preload: Sequence[str]) -> Any:
    """How workers start; ``preload`` as of `make_executor`.

    A forked child of a process that has used torch's threads or CUDA hangs. So they are forked from a server that has
    imported what they need and done nothing else; or spawned, where libraries may not survive a fork (macOS).
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Heeded by the first server, which serves all executors of this process.
    context.set_forkserver_preload(["u2seg.forkserver", *(name for name in preload if name in sys.modules)])
    return context


def _ending(code: int | None) -> str:
    """How a process ended, in words; "" where the pool ended it or it ended as it should."""
    if code in (None, 0, -signal.SIGTERM):
        return ""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _start_worker(ranks: Any, note: Any, environment: Mapping[str, str]) -> None:
    """Remember which worker this is, so that each gets a GPU of its own; leave Ctrl-C to the parent; end with it.

    The ``environment`` is the parent's, since that of a server is as old as the server.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.environ[RANK_VARIABLE] = str(ranks.get())
    share_work(note)
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class DaskExecutor(Executor):
    """The workers of a Dask cluster."""

    def __init__(self, address: str) -> None:
        """Connect to the scheduler at ``address``.

        Raises:
            UsageError: Dask is not installed, or no scheduler answers.
        """
        try:
            from distributed import Client, KilledWorker
        except ImportError as error:
            raise UsageError("U2SEG.EXECUTOR.NAME dask needs Dask: pip install 'u2seg[dask]'") from error
        if not address:
            raise UsageError("U2SEG.EXECUTOR.NAME dask needs U2SEG.EXECUTOR.ADDRESS, such as tcp://host:8786")
        try:
            self._client = Client(address, timeout="15s")
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(f"no Dask scheduler answers at U2SEG.EXECUTOR.ADDRESS {address!r}: {error}") from error
        if not self._client.nthreads():
            logger.warning("the Dask scheduler at %s has no workers yet; waiting for the first", address)
        self._executor = self._client.get_executor(pure=False)
        self.deaths: tuple[type[BaseException], ...] = (KilledWorker,)

    def refuse_strangers(self, describe: Callable[..., dict[str, Any]], *args: Any) -> None:
        """Raise UsageError if ``describe(*args)`` gives something else on a worker that is there now than here."""
        local = describe(*args)
        for worker, remote in self._client.run(describe, *args).items():
            differing = [key for key in local if remote.get(key) != local[key]]
            if differing:
                reasons = "; ".join(f"{key} is {remote.get(key)!r} there and {local[key]!r} here" for key in differing)
                raise UsageError(f"Dask worker {worker} would make other labels: {reasons}")

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now, at least 4."""
        return max(4, sum(self._client.nthreads().values()))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """As `concurrent.futures.Executor.submit`."""
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`; the cluster runs on."""
        self._executor.shutdown(wait=wait)
        self._client.close()


def make_executor(name: str, workers: int, threads: int, address: str = "", preload: Sequence[str] = ()) -> Executor:
    """Build the executor that ``U2SEG.EXECUTOR`` names.

    Args:
        name: ``inline``, ``process`` or ``dask``.
        workers: processes; 0 takes one per GPU, or as many as the cores give at ``threads`` each.
        threads: threads of a worker.
        address: of the Dask scheduler.
        preload: modules that workers need and that take long to import: those that this process has imported are
            imported once for all worker processes.

    Raises:
        UsageError: no such executor, or it can't be had.
    """
    makers: dict[str, Callable[[], Executor]] = {
        "inline": InlineExecutor,
        "process": lambda: ProcessExecutor(workers or default_workers(threads), preload),
        "dask": lambda: DaskExecutor(address),
    }
    return lookup("executor (U2SEG.EXECUTOR.NAME)", name, makers)()
