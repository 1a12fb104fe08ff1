"""What a worker process is given, and what comes back: photos to take through a stage, and what became of them.

Jobs and outcomes travel between processes; what is made of a photo stays on disk.

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, PluginError, UsageError
from u2seg.images import Photo, batches, read_shrunk
from u2seg.plugins.guard import at_photo, print_traceback
from u2seg.pseudo.intermediate import DamagedFileError, Intermediate
from u2seg.pseudo.parts import Part
from u2seg.pseudo.recipe import Recipe
from u2seg.runtime import bounded_threads, worker_device


@dataclass
class Outcome:
    """What became of photos: those of one job, or of all jobs of a stage so far."""

    failures: dict[str, str] = field(default_factory=dict)
    """Name of a photo that nothing was made of to the reason."""
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
            reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            self.failures[photos[0].name] = reason

    def add(self, other: Outcome) -> None:
        """Count ``other``, of further photos, in."""
        self.failures |= other.failures
        self.damaged += other.damaged
        self.seconds.update(other.seconds)
        self.processor.update(other.processor)

    def reasons(self) -> str:
        """The most frequent reasons for failure and how many photos each has cost."""
        reasons = Counter(self.failures.values()).most_common(3)
        return "; ".join(f"{reason} ({count})" for reason, count in reasons)

    def notes(self) -> dict[str, Any]:
        """For the record."""
        sums = {"parts": self.seconds, "processor": self.processor}
        rounded = {key: {part: round(value, 3) for part, value in by_part.items()} for key, by_part in sums.items()}
        return {**rounded, "failures": self.failures}


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

    def part(self, part: Part) -> Any:
        """``part``, one of the recipe's, on this worker."""
        return self.recipe.once(part, self.device)

    def work_through(self, work: Callable[[Outcome, Sequence[Photo]], None], batch_size: int = 1) -> Outcome:
        """Call ``work`` on the photos, ``batch_size`` of them at a time; what became of them."""
        outcome = Outcome()
        with bounded_threads(self.recipe.executor.threads):
            for batch in batches(self.photos, batch_size):
                outcome.attempt(batch, partial(work, outcome))
        return outcome

    @property
    def seconds(self) -> float:
        """After which it counts as hanging."""
        return self.recipe.executor.photo_seconds * len(self.photos)

    def split(self) -> list[Job]:
        """A job for each photo."""
        return [replace(self, photos=(photo,)) for photo in self.photos]


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
