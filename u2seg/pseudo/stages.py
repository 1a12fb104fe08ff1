"""What a stage leaves for the record, collected from its jobs as they come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from u2seg.errors import DataError
from u2seg.jobs import Watcher
from u2seg.pseudo import index
from u2seg.pseudo.intermediate import DamagedFileError
from u2seg.pseudo.worker import Job, Outcome
from u2seg.runtime import Progress

FEW_FAILURES = 10
"""Photos that may fail whatever share of the set they are."""


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
