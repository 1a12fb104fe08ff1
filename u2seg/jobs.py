"""Run many jobs on any executor, whatever becomes of single workers."""

from __future__ import annotations

import concurrent.futures
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from u2seg.errors import U2SegError
from u2seg.executors import ProcessExecutor
from u2seg.runtime import readable_seconds

SECONDS_BETWEEN_LOOKS = 1.0
"""At workers that may hang, and for Ctrl-C."""
SECONDS_TO_START = 60.0
"""A worker may take to import everything, beside the time of its job."""
DIED = (
    "a worker process died, most likely for want of memory; run the same command again to resume, with fewer workers "
    "(U2SEG.EXECUTOR.WORKERS 1, or --workers 1) if it happens again"
)
MOST_DEATHS = 20
"""Photos that may take their worker down in one call of `run_jobs` before the machine is blamed and not the photos."""


class PhotoJob(Protocol):
    """A job of `run_jobs`."""

    @property
    def seconds(self) -> float:
        """After which it counts as hanging."""

    def split(self) -> Sequence[Any]:
        """A job for each of its photos, to find the one that takes workers down."""


Job = TypeVar("Job")
Photos = TypeVar("Photos", bound=PhotoJob)
Result = TypeVar("Result")
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Lost:
    """In place of the result of a job that takes its worker down."""

    reason: str


Results = Generator[tuple[Photos, Result | Lost], None, Returned]


def run_jobs(
    executor: Executor,
    function: Callable[[Photos], Result],
    jobs: Iterable[Photos],
    waiting: Callable[[], object] = lambda: None,
) -> Results[Photos, Result, None]:
    """Run ``function`` on each job, which comes back with its result once that is there.

    Jobs that were at work when a worker died or hung are run again photo by photo, with nothing beside them; a photo
    that takes its worker down once more is lost, and the others go on. ``waiting`` is called every second or so.

    Raises:
        U2SegError: workers die again and again.
        Exception: whatever ``function`` raised; jobs that have not begun are cancelled.
    """
    remaining, deaths = iter(jobs), 0
    while suspects := (yield from _run_until_death(executor, function, remaining, waiting)):
        singles = iter([single for suspect in suspects for single in suspect.split()])
        while (yield from _run_until_death(executor, function, singles, waiting, alone=True)):
            deaths += 1
            if deaths > MOST_DEATHS:
                raise U2SegError(
                    f"more than {MOST_DEATHS} workers died; mend the cause, then run the same command again"
                )


def _run_until_death(
    executor: Executor,
    function: Callable[[Photos], Result],
    jobs: Iterator[Photos],
    waiting: Callable[[], object],
    alone: bool = False,
) -> Results[Photos, Result, list[Photos]]:
    """Run ``jobs`` until there are no more, or a worker dies: the jobs that were at work then, lost if ``alone``."""
    window = 1 if alone else 2 * getattr(executor, "workers", 4)
    pending: dict[Future, tuple[Photos, float]] = {}
    suspects, hangs, died = list[Photos](), False, (BrokenProcessPool, *getattr(executor, "deaths", ()))
    try:
        while True:
            for job in islice(jobs, 0 if suspects else window - len(pending)):
                pending[executor.submit(function, job)] = job, time.monotonic()
            if not pending:
                break
            done, _ = concurrent.futures.wait(pending, SECONDS_BETWEEN_LOOKS, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                job, _ = pending.pop(future)
                try:
                    result = future.result()
                except died:
                    suspects.append(job)
                else:
                    yield job, result
            waiting()
            hangs = hangs or _kill_overdue(executor, pending.values(), alone)
    finally:
        for future in pending:
            future.cancel()
    if suspects:
        lost = _replace_workers(executor, suspects[0], hangs)
        if alone:
            yield suspects[0], lost
    return suspects


def _kill_overdue(executor: Executor, pending: Iterable[tuple[PhotoJob, float]], alone: bool) -> bool:
    """Kill the workers where they are this process's own and a job has taken too long; whether that was so."""
    factor, now = 1 if alone else 2, time.monotonic()  # a job may have waited for another one
    is_overdue = any(now - since > SECONDS_TO_START + factor * job.seconds for job, since in pending)
    if is_overdue and isinstance(executor, ProcessExecutor):
        executor.kill()
        return True
    return False


def _replace_workers(executor: Executor, job: PhotoJob, hangs: bool) -> Lost:
    """Start the workers of ``executor`` again if they are this process's own; how one died at ``job`` alone."""
    ending, part = executor.restart() if isinstance(executor, ProcessExecutor) else ("it died", "")
    reason = f"takes its worker process down ({ending})"
    if hangs:
        reason = f"takes longer than {readable_seconds(job.seconds)}"
    return Lost(f"{reason} in {part}" if part else reason)


def run_in_order(
    executor: Executor, function: Callable[[Job], Result], jobs: Iterable[Job], window: int
) -> Iterator[Result]:
    """Results of ``function`` in the order of ``jobs``, at most ``window`` of them in memory.

    Raises:
        U2SegError: a worker died; the work that was done stays on disk.
        Exception: whatever ``function`` raised; jobs that have not begun are cancelled.
    """
    pending: deque[Future] = deque()
    try:
        for job in jobs:
            pending.append(executor.submit(function, job))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise U2SegError(DIED) from error
    finally:
        for future in pending:
            future.cancel()
