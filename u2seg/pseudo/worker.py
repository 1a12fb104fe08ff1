"""What a worker process is given, and what comes back: photos to take through a stage, and what became of them.

Jobs and outcomes travel between processes; what is made of a photo stays on disk. What a stage leaves for the record is
collected from its jobs as they come back.

Shapes: ``H, W`` pixels at which a photo is labelled (its own size, or smaller: ``U2SEG.INPUT.MAX_PIXELS``).
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from u2seg.errors import DataError, PluginError, UsageError
from u2seg.images import Photo, read_shrunk
from u2seg.jobs import Watcher
from u2seg.plugins.guard import at_photo, print_traceback
from u2seg.pseudo import index
from u2seg.pseudo.intermediate import DamagedFileError, Intermediate
from u2seg.pseudo.recipe import Recipe
from u2seg.runtime import Progress, worker_device

FEW_FAILURES = 10
"""Photos that may fail whatever share of the set they are."""


@dataclass
class Outcome:
    """What became of the photos of a job."""

    failures: dict[int, str] = field(default_factory=dict)
    """Photo id to the reason why nothing was made of it."""
    damaged: list[DamagedFileError] = field(default_factory=list)
    """Records that were damaged and have to be made again."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Wall seconds of work by part."""
    processor: Counter[str] = field(default_factory=Counter)
    """Processor seconds of work by part, which other programs on the machine hardly change."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's seconds to ``part``."""
        started, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started  # type: ignore[assignment]
            self.processor[part] += time.process_time() - processor  # type: ignore[assignment]

    def attempt(self, photos: Sequence[Photo], work: Callable[[Sequence[Photo]], None]) -> None:
        """Call ``work`` on ``photos`` together; where it fails, on each alone, and note those that fail alone.

        What the user has to mend before anything works (settings, plugins, the output) is not caught.
        """
        try:
            work(photos)
        except PluginError as error:
            raise at_photo(error, photos[0].name) from error
        except (UsageError, OSError):
            raise
        except (Exception, SystemExit) as error:  # what breaks on a photo must not cost the others their labels
            if len(photos) > 1:
                for photo in photos:
                    self.attempt([photo], work)
                return
            print_traceback(photos[0].name)
            self.failures[photos[0].id] = (
                str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            )


@dataclass(frozen=True)
class Job:
    """Photos to take through one stage, and where its files go."""

    recipe: Recipe
    photos: tuple[Photo, ...]
    keys: Mapping[int, str]
    """Photo id to the name of its intermediate files."""
    features: Intermediate
    masks: Intermediate
    stuff: Intermediate
    merge: Intermediate
    root: Path
    """The output directory, where ``stuff.npz`` and ``clusters.npz`` are."""

    @property
    def device(self) -> str:
        """The torch device of this worker."""
        return worker_device(self.recipe.device)


@dataclass(frozen=True)
class Pixels:
    """A photo as it is labelled."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    size: tuple[int, int]
    """The photo's own height and width."""


def read_photos(photos: Sequence[Photo], outcome: Outcome, recipe: Recipe) -> list[tuple[Photo, Pixels]]:
    """Those of ``photos`` that can be read, at the size to label; the others are noted in ``outcome``.

    Raises:
        OSError: the folder of one that can't be read is gone, empty or closed: an unmounted disk, say.
    """
    readable: list[tuple[Photo, Pixels]] = []

    def read(group: Sequence[Photo]) -> None:
        (photo,) = group
        try:
            image, size = read_shrunk(photo.path, recipe.max_pixels, recipe.max_decoded_pixels)
        except DataError:
            with os.scandir(folder := os.path.dirname(photo.path)) as entries:  # raises if it is gone or closed
                if next(entries, None) is None:
                    reason = "the photos have gone; is their disk still mounted?"
                    raise OSError(errno.ENOENT, reason, folder) from None
            raise
        readable.append((photo, Pixels(image, size)))

    with outcome.timed("read"):
        for photo in photos:
            outcome.attempt([photo], read)
    return readable


@dataclass
class StageNotes:
    """What a stage leaves for the record."""

    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    """Wall seconds of work by part, of all workers."""
    processor: dict[str, float] = field(default_factory=dict)
    """Processor seconds by part."""
    failures: dict[str, str] = field(default_factory=dict)
    """Name of a photo that nothing was made of to the reason."""

    def reasons(self) -> str:
        """The most frequent reasons for failure and how many photos each has cost."""
        reasons = Counter(self.failures.values()).most_common(3)
        return "; ".join(f"{reason} ({count})" for reason, count in reasons)


class StageWatcher(Watcher[Job, Outcome]):
    """Notes what the jobs of one stage come to, and ends the stage where too many photos fail."""

    def __init__(
        self,
        stage: str,
        notes: StageNotes,
        progress: Progress,
        most_failures: float,
        indexes: Sequence[index.ProductIndex] = (),
    ) -> None:
        """Watch ``stage``; a share ``most_failures`` of its photos may fail, or `FEW_FAILURES`.

        What jobs that have come back leave in ``indexes`` is packed, a full shard at a time.
        """
        self.stage, self.notes, self.progress, self.indexes = stage, notes, progress, indexes
        self._keys: list[str] = []
        self.most_failures = max(FEW_FAILURES, most_failures * progress.total)
        self.damaged: list[DamagedFileError] = []

    def done(self, job: Job, outcome: Outcome) -> None:
        """Add up seconds and failures."""
        self.damaged += outcome.damaged
        for sums, seconds in ((self.notes.parts, outcome.seconds), (self.notes.processor, outcome.processor)):
            sums.update({part: round(sums.get(part, 0.0) + value, 3) for part, value in seconds.items()})
        self._fail(job, outcome.failures)
        self._keys += [job.keys[photo.id] for photo in job.photos]
        if len(self._keys) >= index.SHARD_RECORDS:
            for of_product in self.indexes:
                of_product.pack(self._keys)
            self._keys = []
        self.progress.advance(len(job.photos))

    def split(self, job: Job) -> list[Job]:
        """A job for each photo."""
        return [replace(job, photos=(photo,)) for photo in job.photos]

    def lost(self, job: Job, reason: str) -> None:
        """Put the photo aside by name."""
        self._fail(job, {photo.id: reason for photo in job.photos})
        self.progress.advance(len(job.photos))

    def limit(self, job: Job) -> float:
        """``U2SEG.EXECUTOR.PHOTO_SECONDS`` for each photo."""
        return job.recipe.executor.photo_seconds * len(job.photos)

    def waiting(self) -> None:
        """Show that the run is alive."""
        self.progress.advance(0)

    def _fail(self, job: Job, failures: dict[int, str]) -> None:
        self.notes.failures.update({photo.name: failures[photo.id] for photo in job.photos if photo.id in failures})
        count = len(self.notes.failures)
        if failures and count > self.most_failures:
            raise DataError(
                f"stage {self.stage} was stopped: {count} of {self.progress.total} photos failed: "
                f"{self.notes.reasons()}. What is done stays. Mend the cause and run the same command again, or set "
                "U2SEG.EXECUTOR.MAX_FAILURES, the share that may fail, higher"
            )
