"""Run many jobs on any executor, whatever becomes of single workers."""

from __future__ import annotations

import concurrent.futures
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Generic, TypeVar

from u2seg.errors import U2SegError
from u2seg.executors import InlineExecutor, ProcessExecutor
from u2seg.runtime import readable_seconds

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_BETWEEN_LOOKS = 1.0
"""At workers that may have died or hang, and for Ctrl-C."""
SECONDS_TO_START = 60.0
"""A worker may take to import everything, beside the time of its job."""
DIED = (
    "a worker process died, most likely for want of memory; run the same command again to resume, with fewer workers "
    "(U2SEG.EXECUTOR.WORKERS 1, or --workers 1) if it happens again"
)
MOST_DEATHS = 20
"""Workers that may die in one call of `run_jobs` before the machine is blamed and not the photos."""


class Watcher(Generic[Job, Result]):
    """What the caller of `run_jobs` does with what happens; by default a worker that dies ends the call."""

    def done(self, job: Job, result: Result) -> None:
        """``job`` has come back."""

    def split(self, job: Job) -> Sequence[Job]:
        """Jobs of one photo each, to find the one that takes workers down."""
        raise U2SegError(DIED)

    def lost(self, job: Job, reason: str) -> None:
        """A worker that had nothing but ``job``, of one photo, to do has not come back."""

    def limit(self, job: Job) -> float:
        """Seconds after which ``job`` counts as hanging."""
        return math.inf

    def waiting(self) -> None:
        """Called every second or so."""


def run_jobs(
    executor: Executor, function: Callable[[Job], Result], jobs: Iterable[Job], watcher: Watcher[Job, Result]
) -> None:
    """Run ``function`` on each job; ``watcher`` is told here of each result as it comes.

    Jobs that were at work when a worker died or hung are run again photo by photo, with nothing beside them; a photo
    that takes its worker down once more is lost, and the others go on.

    Raises:
        U2SegError: workers die again and again, or something called `sys.exit`.
        Exception: whatever ``function`` raised; jobs that have not begun are cancelled.
    """
    if isinstance(executor, InlineExecutor):
        for job in jobs:
            watcher.done(job, function(job))
        return
    remaining, deaths = iter(jobs), 0
    while suspects := _run_until_death(executor, function, remaining, watcher):
        for job in [single for suspect in suspects for single in watcher.split(suspect)]:
            deaths += _run_alone(executor, function, job, watcher)
            if deaths > MOST_DEATHS:
                raise U2SegError(
                    f"more than {MOST_DEATHS} workers died; mend the cause, then run the same command again"
                )
        if isinstance(executor, ProcessExecutor):
            executor.restart()


def _deaths(executor: Executor) -> tuple[type[BaseException], ...]:
    """Exceptions that say that a worker died."""
    return (BrokenProcessPool, *getattr(executor, "deaths", ()))


def _run_until_death(
    executor: Executor, function: Callable[[Job], Result], jobs: Iterator[Job], watcher: Watcher[Job, Result]
) -> list[Job]:
    """Run ``jobs`` until there are no more, then return []; or until a worker dies: then what was at work."""
    pending: dict[Future, tuple[Job, float]] = {}
    suspects: list[Job] = []
    try:
        while not suspects:
            for job in islice(jobs, 2 * getattr(executor, "workers", 4) - len(pending)):
                try:
                    pending[executor.submit(function, job)] = job, time.monotonic()
                except BrokenProcessPool:
                    suspects.append(job)
            if not pending and not suspects:
                return []
            concurrent.futures.wait(pending, SECONDS_BETWEEN_LOOKS, concurrent.futures.FIRST_COMPLETED)
            suspects += _collect(executor, pending, watcher)
            watcher.waiting()
            # A job may have waited for another one.
            if any(time.monotonic() - since > 2 * watcher.limit(job) for job, since in pending.values()):
                _kill(executor)
        concurrent.futures.wait(pending)  # it died with the pool, or is done elsewhere on the cluster
        suspects += _collect(executor, pending, watcher)
        if isinstance(executor, ProcessExecutor):
            executor.restart(workers=1)
        return suspects
    finally:
        for future in pending:
            future.cancel()


def _collect(executor: Executor, pending: dict[Future, tuple[Job, float]], watcher: Watcher[Job, Any]) -> list[Job]:
    """Take what is done from ``pending`` to the watcher; the jobs whose worker died."""
    suspects = []
    for future in [future for future in pending if future.done()]:
        job, _ = pending.pop(future)
        try:
            result = future.result()
        except _deaths(executor):
            suspects.append(job)
        except SystemExit as error:
            raise U2SegError(f"something that was at work called sys.exit({error.code!r})") from error
        else:
            watcher.done(job, result)
    return suspects


def _run_alone(executor: Executor, function: Callable[[Job], Result], job: Job, watcher: Watcher[Job, Result]) -> int:
    """Run ``job`` with nothing beside it; how many workers it has taken down, 0 or 1."""
    started, hangs = time.monotonic(), False
    future = executor.submit(function, job)
    while not future.done():
        concurrent.futures.wait([future], SECONDS_BETWEEN_LOOKS)
        watcher.waiting()
        if not hangs and time.monotonic() - started > SECONDS_TO_START + watcher.limit(job):
            hangs = _kill(executor)
    if not _collect(executor, {future: (job, started)}, watcher):
        return 0
    where, ending = "", "it died"
    if isinstance(executor, ProcessExecutor):
        part = executor.at_work()
        where, ending = f" in {part}" if part else "", executor.restart(workers=1)
    limit = readable_seconds(watcher.limit(job)) if hangs else ""
    reason = f"takes longer than {limit}" if hangs else f"takes its worker process down ({ending})"
    watcher.lost(job, reason + where)
    return 1


def _kill(executor: Executor) -> bool:
    """Kill the workers of ``executor`` if they are this process's own; whether they were."""
    if isinstance(executor, ProcessExecutor):
        executor.kill()
    return isinstance(executor, ProcessExecutor)


def run_in_order(
    executor: Executor, function: Callable[[Job], Result], jobs: Iterable[Job], window: int
) -> Iterator[Result]:
    """Results of ``function`` in the order of ``jobs``, at most ``window`` of them in memory.

    Raises:
        U2SegError: a worker died; the work that was done stays on disk.
        Exception: whatever ``function`` raised; jobs that have not begun are cancelled.
    """
    waiting: deque[Future] = deque()
    try:
        for job in jobs:
            waiting.append(executor.submit(function, job))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise U2SegError(DIED) from error
    finally:
        for future in waiting:
            future.cancel()
