"""One run in one output directory: its photos, its ledger, its workers. Label generators build on it.

::

    panoptic.json  panoptic/*.png  instances.json  run.json  clusters.npz  stuff.npz     the dataset, what was learnt
    stages/ledger.json  photos.json  published.json  <product>/<fingerprint>/...         what a next run needs
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import Any

import u2seg
from u2seg.errors import DataError, UsageError
from u2seg.executors import DaskExecutor, make_executor
from u2seg.files import claim_directory, locked, sweep_parts
from u2seg.images import Photo, PhotoSet, batches
from u2seg.jobs import Lost, run_jobs
from u2seg.pseudo.index import PACKED
from u2seg.pseudo.intermediate import DamagedFileError
from u2seg.pseudo.ledger import FITTED_FILES, REDOABLE, STAGES
from u2seg.pseudo.painting import merge_photos
from u2seg.pseudo.products import Products
from u2seg.pseudo.publication import Publication
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.record import Summary, write_run
from u2seg.pseudo.worker import Job, Outcome
from u2seg.runtime import Progress, default_workers

logger = logging.getLogger(__name__)

NEEDS = {"fit": (), "label": ("fit",), "cluster": ("label",), "merge": ("label", "cluster")}
"""Stage to the stages that must be complete before it."""
PRELOAD = (
    *("torch", "timm", "scipy.ndimage", "scipy.sparse", "sklearn.cluster"),
    *("u2seg.pseudo.labelling", "u2seg.pseudo.painting"),
)
"""What workers need of a run's modules, as `u2seg.executors.make_executor` takes it."""
FEW_FAILURES = 10
"""Photos that may fail whatever share of the set they are."""


class LabelRun(Products):
    """Use as a context manager: it holds the directory's lock and, once there is work, its workers."""

    def __init__(
        self,
        root: Path,
        photos: PhotoSet,
        recipe: Recipe,
        settings: Mapping[str, Mapping[str, Any]],
        redo: str | None = None,
    ) -> None:
        """Take up the output directory ``root``: new, empty, or of an earlier run.

        Args:
            settings: by product, what it depends on beside what it is made from.
            redo: a key of `u2seg.pseudo.ledger.REDOABLE`: what to make again.

        Raises:
            UsageError: the directory was made with other settings, is in use, or is not this package's.
        """
        root = claim_directory(root, "labels")
        self.recipe, self._settings = recipe, settings
        with contextlib.ExitStack() as resources:
            resources.enter_context(locked(root / "stages" / "lock", f"another run is at work in {root}"))
            sweep_parts(root / "stages")
            super().__init__(root, photos)
            self.ledger.begin(settings, redo)
            self._resources = resources.pop_all()
        for product in FITTED_FILES:
            self.is_fitted(product)
        self.publication = Publication(root)

    def __enter__(self) -> LabelRun:
        return self

    def __exit__(self, *error: Any) -> None:
        self._resources.__exit__(*error)

    def perform(self, stage: str, work: Callable[[LabelRun], bool]) -> None:
        """Do ``stage``, one of `STAGES`; ``work`` does what this run lacks, and returns whether that was anything.

        Raises:
            UsageError: a stage before it is not complete.
            DataError: it failed on every photo.
            DamagedFileError: records that it needs were damaged; they have been dropped.
        """
        photos = self.inventory.digest
        for needed in NEEDS[stage]:
            if not self.ledger.is_complete(needed, photos):
                raise UsageError(
                    f"stage {stage} needs {needed}, which is not complete in {self.root}; add it to --stages"
                )
        self.stage, self.outcome, started = stage, Outcome(), time.perf_counter()
        if not work(self) and self.ledger.is_complete(stage, photos):
            logger.info("%s: already done", stage)
            return
        self.refuse_if_all_failed(len(self.inventory.photos))
        seconds = round(time.perf_counter() - started, 3)
        self.ledger.finish(stage, photos, {"seconds": seconds, **self.outcome.notes()})
        self.inventory.save()

    def refuse_if_all_failed(self, count: int) -> None:
        """Raise DataError, with the reasons, if the stage has failed on each of its ``count`` photos."""
        failures = self.outcome.failures
        if failures and len(failures) >= count:
            raise DataError(
                f"stage {self.stage} failed on each of the {len(failures)} photos: {self.outcome.reasons()}"
            )

    def _refuse_many_failures(self, total: int) -> None:
        """Raise DataError if the stage has failed on too many of ``total`` photos."""
        count = len(self.outcome.failures)
        if count > max(FEW_FAILURES, self.recipe.executor.max_failures * total):
            raise DataError(
                f"stage {self.stage} was stopped: {count} of {total} photos failed: {self.outcome.reasons()}. What is "
                "done stays. Mend the cause and run the same command again, or set U2SEG.EXECUTOR.MAX_FAILURES, the "
                "share that may fail, higher"
            )

    def each(
        self, function: Callable[[Any], Outcome], photos: Sequence[Photo], make_job: Callable[..., Job] = Job
    ) -> None:
        """Run ``function`` on ``photos``, cut into jobs, with progress; what becomes of them is added to the stage's.

        Args:
            function: takes a job; can travel to another process.
            photos: in order; with batches, whole batches of the run.
            make_job: takes the fields of a `Job`, and may add some of its own.

        Raises:
            DamagedFileError: records were damaged; they have been dropped.
            DataError: more photos failed than ``U2SEG.EXECUTOR.MAX_FAILURES`` allows.
        """
        indexes = [self.index(product) for product in REDOABLE[self.stage] if product in PACKED]
        jobs = self._jobs(photos, make_job)
        progress = Progress(self.stage, len(photos))
        results = run_jobs(self.executor, function, jobs, waiting=lambda: progress.advance(0))
        with progress, contextlib.closing(results):
            for job, result in results:
                if isinstance(result, Lost):
                    result = Outcome({photo.name: result.reason for photo in job.photos})
                self.outcome.add(result)
                self._refuse_many_failures(len(photos))
                for index in indexes:
                    index.note(job.keys[photo.id] for photo in job.photos)
                progress.advance(len(job.photos))
        for index in indexes:
            index.refresh()
            index.pack_many(self.inventory.keys.values())
        self.drop(self.outcome.damaged)
        if self.outcome.damaged:
            raise self.outcome.damaged[0]

    def _jobs(self, photos: Sequence[Photo], make_job: Callable[..., Job]) -> Iterator[Job]:
        """About eight jobs for each worker, of whole batches; each is made when its turn has come."""
        settings = self.recipe.executor
        workers = settings.workers or default_workers(settings.threads)
        size = min(settings.shard_size, -(-len(photos) // (8 * workers)))
        size = max(settings.batch_size, size // settings.batch_size * settings.batch_size)
        indexes, features = {product: self.index(product) for product in PACKED}, self.features()
        for start in range(0, len(photos), size):
            cut = tuple(photos[start : start + size])
            keys = {photo.id: self.inventory.keys[photo.id] for photo in cut}
            records = {product: index.view(keys.values()) for product, index in indexes.items()}
            yield make_job(recipe=self.recipe, photos=cut, keys=keys, features=features, root=self.root, **records)

    @cached_property
    def executor(self) -> Executor:
        """Who does the work, made when it is first asked for."""
        settings = self.recipe.executor
        executor = make_executor(settings.name, settings.workers, settings.threads, settings.address, PRELOAD)
        self._resources.enter_context(executor)
        if isinstance(executor, DaskExecutor):
            executor.refuse_strangers(self.recipe.identity, "weights" in self._settings["masks"])
        return executor

    def label(self, function: Callable[[Any], Outcome], make_job: Callable[..., Job] = Job) -> bool:
        """Run ``function``, which makes masks and stuff, on the batches that lack some; whether there were any."""
        done = {photo.id for photo in self.labelled().values()}
        groups = batches(self.inventory.photos, self.recipe.executor.batch_size)
        pending = [photo for batch in groups if not all(photo.id in done for photo in batch) for photo in batch]
        if pending:
            self.ledger.commit("masks", "stuff")
            self.each(function, pending, make_job)
        return bool(pending)

    def merge(self) -> bool:
        """Merge masks and stuff of the photos that lack a whole panoptic label; whether there were any.

        Nothing is read where all is as it was published.
        """
        photos, merged = self.labelled(), self.index("merge")
        if all(map(merged.has, photos)) and self.publication.is_current(self.content(photos)):
            return False
        pending = self.publication.drop_damaged(merged, photos)
        if pending:
            self.ledger.commit("merge")
            self.each(merge_photos, list(pending.values()))
            made = {key: photo for key, photo in pending.items() if merged.has(key)}
            if damaged := self.publication.drop_damaged(merged, made):
                raise DamagedFileError(f"{len(damaged)} labels are not as they were written")
        return bool(pending)

    def finish(self, caveats: Sequence[str], record: Mapping[str, Any]) -> Summary:
        """Publish the dataset where anything of it has changed, and delete what no photo needs any more.

        ``caveats`` must be said against calling the labels unsupervised; ``record`` is for ``run.json``.
        """
        merged = self.index("merge")
        photos = {key: photo for key, photo in self.labelled().items() if merged.has(key)}
        content = self.content(photos)
        if not self.publication.is_current(content):
            info = {
                "description": f"pseudo labels made by u2seg {u2seg.__version__}; no human looked at them",
                "image_root": str(self.photo_set.root),
                "caveats": list(caveats),
            }
            self.publication.publish(merged, photos, info, self.recipe.space, content)
        summary = self._summary({photo.name for photo in photos.values()})
        write_run(self.root, self.photo_set, summary, {"caveats": list(caveats), **record})
        self.tidy()
        return summary

    def _summary(self, labelled: set[str]) -> Summary:
        """What the run came to, with the names of the photos that have a label."""
        notes = self.ledger.complete
        failures = {name: reason for stage in STAGES for name, reason in notes[stage]["failures"].items()}
        names = {photo.name for photo in self.inventory.photos} - labelled
        skipped = {name: failures.get(name, "not labelled yet") for name in sorted(names)}
        timings = {stage: {key: notes[stage][key] for key in ("seconds", "parts", "processor")} for stage in STAGES}
        return Summary(**vars(self.publication.counts), skipped=skipped, timings=timings)
