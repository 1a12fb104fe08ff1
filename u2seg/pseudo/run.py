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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from u2seg.errors import DataError, UsageError
from u2seg.executors import make_executor, refuse_strangers
from u2seg.files import claim_directory, locked, sweep_parts
from u2seg.images import Photo, PhotoSet, batches
from u2seg.jobs import run_jobs
from u2seg.pseudo.index import PACKED
from u2seg.pseudo.intermediate import DamagedFileError
from u2seg.pseudo.ledger import FITTED_FILES, REDOABLE, STAGES
from u2seg.pseudo.painting import merge_photos
from u2seg.pseudo.products import Products
from u2seg.pseudo.publication import Publication, describe, drop_damaged, publish
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.record import Summary, Totals, write_run
from u2seg.pseudo.worker import Job, Outcome, StageNotes, StageWatcher
from u2seg.runtime import Progress, default_workers

logger = logging.getLogger(__name__)

NEEDS = {"fit": (), "label": ("fit",), "cluster": ("label",), "merge": ("label", "cluster")}
"""Stage to the stages that must be complete before it."""
PRELOAD = (
    *("torch", "timm", "scipy.ndimage", "scipy.sparse", "sklearn.cluster"),
    *("u2seg.pseudo.labelling", "u2seg.pseudo.painting"),
)
"""What workers need of a run's modules, as `u2seg.executors.make_executor` takes it."""
MOST_REPAIRS = 3
"""Times that damaged intermediate files are made again before the disk is blamed."""


class LabelRun(Products):
    """Use as a context manager: it holds the directory's lock and, once there is work, its workers."""

    def __init__(
        self,
        root: Path,
        photos: PhotoSet,
        recipe: Recipe,
        settings: Mapping[str, Mapping[str, Any]],
        redo: str | None = None,
        executor: Executor | None = None,
    ) -> None:
        """Take up the output directory ``root``: new, empty, or of an earlier run.

        Args:
            settings: by product, what it depends on beside what it is made from.
            redo: a key of `u2seg.pseudo.ledger.REDOABLE`: what to make again.
            executor: who does the work; by default what the recipe says.

        Raises:
            UsageError: the directory was made with other settings, is in use, or is not this package's.
        """
        root = claim_directory(root, "labels")
        self.recipe, self._settings = recipe, settings
        self._resources = contextlib.ExitStack()
        self._resources.enter_context(locked(root / "stages" / "lock", f"another run is at work in {root}"))
        try:
            sweep_parts(root / "stages")
            super().__init__(root, photos)
            self.ledger.begin(settings, redo)
        except BaseException:
            self._resources.close()
            raise
        self._executor = executor
        self.notes: dict[str, StageNotes] = {}
        for product in FITTED_FILES:
            self.is_fitted(product)
        self.publication = Publication.read(root)
        self._totals: dict[str, Totals] = {}

    def __enter__(self) -> LabelRun:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if isinstance(error, DamagedFileError):
                self.drop([error])
                raise DataError(f"{error}; run the same command again, which makes it again") from error
        finally:
            self._resources.__exit__(kind, error, trace)

    def perform(self, stage: str, work: Callable[[], bool]) -> None:
        """Do ``stage``, one of `STAGES`; ``work`` does what is missing, and returns whether anything was.

        Raises:
            UsageError: a stage before it is not complete.
            DataError: it failed on every photo.
        """
        photos = self.inventory.digest
        for needed in NEEDS[stage]:
            if not self.ledger.is_complete(needed, photos):
                raise UsageError(
                    f"stage {stage} needs {needed}, which is not complete in {self.root}; add it to --stages"
                )
        notes = self.notes[stage] = StageNotes()
        started = time.perf_counter()
        if not work() and self.ledger.is_complete(stage, photos):
            logger.info("%s: already done", stage)
            del self.notes[stage]
            return
        notes.seconds = time.perf_counter() - started
        self.refuse_if_all_failed(stage, len(self.inventory.photos))
        self.ledger.finish(stage, photos, asdict(notes))
        self.save_inventory()

    def refuse_if_all_failed(self, stage: str, count: int) -> None:
        """Raise DataError, with the reasons, if ``stage`` has failed on each of its ``count`` photos."""
        notes = self.notes[stage]
        if notes.failures and len(notes.failures) >= count:
            raise DataError(f"stage {stage} failed on each of the {len(notes.failures)} photos: {notes.reasons()}")

    def each(
        self, stage: str, function: Callable[[Any], Outcome], photos: Sequence[Photo], make_job: Any = Job, **more: Any
    ) -> bool:
        """Run ``function`` on ``photos``, cut into jobs, with progress; failures and seconds go to the stage's notes.

        Args:
            stage: whose notes.
            function: takes a job; can travel to another process.
            photos: in order; with batches, whole batches of the run.
            make_job: `Job`, or a class with more fields.
            more: further fields of the jobs; a callable is called with the photos of each job.

        Returns:
            Whether records were damaged; they have been dropped.

        Raises:
            DataError: more photos failed than ``U2SEG.EXECUTOR.MAX_FAILURES`` allows.
        """
        notes = self.notes.setdefault(stage, StageNotes())
        indexes = [self.index(product) for product in REDOABLE[stage] if product in PACKED]
        with Progress(stage, len(photos)) as progress:
            watcher = StageWatcher(stage, notes, progress, self.recipe.executor.max_failures, indexes)
            run_jobs(self.executor(), function, self._jobs(photos, make_job, more), watcher)
        for index in indexes:
            index.refresh()
            index.pack_many(self.inventory.keys.values())
        self.drop(watcher.damaged)
        return bool(watcher.damaged)

    def _jobs(self, photos: Sequence[Photo], make_job: Any, more: Mapping[str, Any]) -> Iterator[Job]:
        """About eight jobs for each worker, of whole batches; each is made when its turn has come."""
        settings = self.recipe.executor
        workers = settings.workers or default_workers(settings.threads)
        size = min(settings.shard_size, -(-len(photos) // (8 * workers)))
        size = max(settings.batch_size, size // settings.batch_size * settings.batch_size)
        indexes, features = {product: self.index(product) for product in PACKED}, self.features()
        for start in range(0, len(photos), size):
            cut = tuple(photos[start : start + size])
            fields = {key: value(cut) if callable(value) else value for key, value in more.items()}
            keys = {photo.id: self.inventory.keys[photo.id] for photo in cut}
            fields |= {product: index.view(keys.values()) for product, index in indexes.items()}
            yield make_job(recipe=self.recipe, photos=cut, keys=keys, features=features, root=self.root, **fields)

    def executor(self) -> Executor:
        """Who does the work, made when it is first asked for."""
        if self._executor is None:
            settings = self.recipe.executor
            executor = make_executor(settings.name, settings.workers, settings.threads, settings.address, PRELOAD)
            self._executor = self._resources.enter_context(executor)
            refuse_strangers(executor, self.recipe.identity, "weights" in self._settings["masks"])
        return self._executor

    def label(self, function: Callable[[Any], Outcome], make_job: Any = Job, **more: Any) -> bool:
        """Run ``function``, which makes masks and stuff, on the batches that lack some; whether there were any."""
        done = {photo.id for photo in self.labelled()}
        groups = batches(self.inventory.photos, self.recipe.executor.batch_size)
        pending = [photo for batch in groups if not all(photo.id in done for photo in batch) for photo in batch]
        if pending:
            self.ledger.commit("masks", "stuff")
            self.each("label", function, pending, make_job, **more)
        return bool(pending)

    def merge(self, repair: Callable[[], bool]) -> bool:
        """Merge masks and stuff of the photos that lack a panoptic label; whether there were any.

        ``repair`` makes masks and stuff again where they are missing.

        Raises:
            DataError: intermediate files are damaged again and again.
        """
        for attempt in range(MOST_REPAIRS):
            pending = self._unmerged()
            if not pending:
                return attempt > 0
            self.ledger.commit("merge")
            sources_damaged = self.each("merge", merge_photos, pending)
            merged, keys = self.index("merge"), self.inventory.keys
            made = [photo for photo in pending if merged.has(keys[photo.id])]
            if not drop_damaged(self.publication, merged, made, keys, self._totals) and not sources_damaged:
                return True
            logger.warning("intermediate files were damaged; they are made again")
            repair()
        raise DataError(f"intermediate files in {self.root} are damaged again and again; check the disk")

    def _unmerged(self) -> list[Photo]:
        """Photos that have masks and stuff, and no whole label; nothing is read where all is as it was published."""
        photos, merged, keys = self.labelled(), self.index("merge"), self.inventory.keys
        complete = all(merged.has(keys[photo.id]) for photo in photos)
        if complete and self.publication.is_current(self.content(photos)):
            return []
        return drop_damaged(self.publication, merged, photos, keys, self._totals)

    def finish(self, caveats: Sequence[str], record: Mapping[str, Any]) -> Summary:
        """Publish the dataset where anything of it has changed, and delete what no photo needs any more.

        ``caveats`` must be said against calling the labels unsupervised; ``record`` is for ``run.json``.
        """
        merged, keys = self.index("merge"), self.inventory.keys
        complete = [photo for photo in self.labelled() if merged.has(keys[photo.id])]
        content = self.content(complete)
        if not self.publication.is_current(content):
            info = describe(self.photo_set.root, caveats)
            made_of = merged.files, complete, keys, self._totals
            self.publication = publish(self.publication, *made_of, info, self.recipe.space, content)
        summary = self._summary({photo.name for photo in complete})
        write_run(self.root, self.photo_set, summary, {"caveats": list(caveats), **record})
        self.tidy()
        return summary

    def _summary(self, labelled: set[str]) -> Summary:
        """What the run came to, with the names of the photos that have a label."""
        notes = {**self.ledger.complete, **{stage: asdict(notes) for stage, notes in self.notes.items()}}
        failures = {name: reason for stage in STAGES for name, reason in notes[stage]["failures"].items()}
        names = {photo.name for photo in self.inventory.photos} - labelled
        skipped = {name: failures.get(name, "not labelled yet") for name in sorted(names)}
        parts = {stage: {key: notes[stage][key] for key in ("parts", "processor")} for stage in STAGES}
        timings = {stage: {"seconds": round(notes[stage]["seconds"], 3), **parts[stage]} for stage in STAGES}
        return Summary(**vars(self.publication.counts), skipped=skipped, timings=timings)
