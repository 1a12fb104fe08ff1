"""From photos to a pseudo-panoptic dataset: runs the stages, each on all photos, over an executor.

Stages: ``masks`` (things of each photo), ``cluster`` (pseudo-classes over the set), ``stuff``, ``merge``. A stage that
is whole on disk is skipped; one that was cut off goes on with the photos that are missing.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry

from u2seg.config import plain
from u2seg.errors import DataError, UsageError
from u2seg.images import Photo, PhotoSet, find_photos
from u2seg.pseudo import parts, shards
from u2seg.pseudo.dataset import Summary, write_dataset
from u2seg.pseudo.fits import cluster_masks, earlier_state, fit_stuff, read_embeddings, sample_for_stuff
from u2seg.pseudo.notes import StageNotes
from u2seg.pseudo.settings import check_settings, photo_fingerprint, stage_settings
from u2seg.pseudo.store import STAGES, OutputDirectory, StageLedger
from u2seg.runtime import Progress, default_workers, make_executor, run_in_order, run_jobs

logger = logging.getLogger(__name__)

PSEUDO_LABEL_GENERATORS = Registry("PSEUDO_LABEL_GENERATORS")
"""Whole label generators, by the name in ``U2SEG.GENERATOR``: classes with the interface of `U2SegGenerator`.

Each has ``find_photos(cfg, images, root) -> PhotoSet``, is called with (cfg, photos, output), and has
``run(stages, redo) -> Summary | None``.
"""

NEEDS = {"masks": [], "cluster": ["masks"], "stuff": [], "merge": ["masks", "cluster", "stuff"]}
"""What must be whole before a stage can run."""


@PSEUDO_LABEL_GENERATORS.register()
class U2SegGenerator:
    """The recipe of U2Seg: masks, clusters, stuff, merge; every part by its name in the config."""

    def __init__(
        self, cfg: CfgNode, photos: PhotoSet, output: OutputDirectory, executor: Executor | None = None
    ) -> None:
        """Check everything that can be checked before work begins.

        Args:
            cfg: holds the ``U2SEG`` tree.
            photos: what to label.
            output: where to.
            executor: any `concurrent.futures.Executor`; by default the one that ``U2SEG.EXECUTOR`` names.

        Raises:
            UsageError: a setting can't be taken.
            PluginError: a part that is asked for may be in a broken plugin.
        """
        self.settings: parts.Settings = plain(cfg.U2SEG)
        self.photos, self.output = photos, output
        self._executor = executor
        self.notes: dict[str, StageNotes] = {}
        self.weights = self.check()

    @classmethod
    def find_photos(cls, cfg: CfgNode, images: str | None, root: str | None) -> PhotoSet:
        """The photos to label, from what ``--images`` and ``--image-root`` say.

        Raises:
            UsageError: there are none.
        """
        if not images:
            raise UsageError("--images is missing; see --help")
        return find_photos(images, root)

    def check(self) -> list[dict[str, Any]]:
        """Check the settings; what the networks say of their weights: those of things, then those of stuff."""
        return check_settings(self.settings)

    def wanted(self) -> dict[str, dict[str, Any]]:
        """For each stage, all that its files depend on."""
        return stage_settings(self.settings, photo_fingerprint(self.photos), self.weights)

    def record(self) -> dict[str, Any]:
        """What ``run.json`` shall say besides, or instead of, what it says of every run."""
        return {}

    def run(self, stages: Sequence[str] = STAGES, redo: str | None = None) -> Summary | None:
        """Run ``stages`` and return the summary of the dataset, or None where ``merge`` is not among them.

        Args:
            stages: names out of `STAGES`.
            redo: throw away this stage and those after it first.

        Raises:
            UsageError: the directory was made with other settings, or a stage lacks the one before it.
        """
        self.output.open()
        with self.output.locked():
            self.output.clean()
            self.ledger = StageLedger(self.output)
            if redo:
                self.ledger.forget_from(redo)
            wanted = self.wanted()
            ordered = [stage for stage in STAGES if stage in stages]
            for stage in ordered:
                for checked in (*NEEDS[stage], stage):
                    self.ledger.check(checked, wanted[checked])
            with self._executor_context() as executor:
                for stage in ordered:
                    self._run_stage(stage, wanted[stage], executor)
            summary = self._write() if "merge" in stages else None
            self.output.clean()
            return summary

    def _executor_context(self) -> contextlib.AbstractContextManager[Executor]:
        if self._executor is not None:
            return contextlib.nullcontext(self._executor)
        node = self.settings["EXECUTOR"]
        return make_executor(node["NAME"], node["WORKERS"], node["THREADS"], node["ADDRESS"])

    def _run_stage(self, stage: str, wanted: Mapping[str, Any], executor: Executor) -> None:
        for needed in NEEDS[stage]:
            if self.ledger.done(needed) is None:
                raise UsageError(
                    f"stage {stage} needs {needed}, which is not done in {self.output.root}; add it to --stages"
                )
        self.ledger.begin(stage, wanted)
        before = self.ledger.done(stage)
        if before is not None:
            self.notes[stage] = StageNotes.from_json(before)
            logger.info("%s: already done", stage)
            return
        notes = self.notes[stage] = StageNotes(resumed=(self.output.stages / stage).exists())
        started = time.perf_counter()
        runs: dict[str, Callable[[Executor, StageNotes], None]] = {
            "masks": self._masks,
            "cluster": self._cluster,
            "stuff": self._stuff,
            "merge": self._merge,
        }
        runs[stage](executor, notes)
        notes.seconds = time.perf_counter() - started
        self._complain_if_all_failed(stage, notes)
        self.ledger.finish(stage, notes.to_json())

    def readable(self, *stages: str) -> list[Photo]:
        """The photos that none of ``stages`` failed on, in order."""
        failed: set[int] = set()
        for stage in stages:
            done = self.ledger.done(stage)
            failed |= StageNotes.from_json(done).failures.keys() if done else set()
        return [photo for photo in self.photos.photos if photo.id not in failed]

    def _shards(self, photos: Sequence[Photo], clusters: Mapping[int, np.ndarray] | None = None) -> list[shards.Shard]:
        """Cut ``photos`` into about eight shards for each worker, of whole batches."""
        node = self.settings["EXECUTOR"]
        workers = node["WORKERS"] or default_workers(node["THREADS"])
        batch = node["BATCH_SIZE"]
        size = min(node["SHARD_SIZE"], -(-len(photos) // (8 * workers)))
        size = max(batch, size // batch * batch)
        return [
            shards.Shard(
                self.settings, self.output, tuple(cut), tuple(clusters[photo.id] for photo in cut) if clusters else ()
            )
            for cut in (photos[start : start + size] for start in range(0, len(photos), size))
        ]

    def _each(
        self,
        executor: Executor,
        stage: str,
        function: Callable[[Any], shards.Outcome],
        jobs: Sequence[shards.Shard],
        notes: StageNotes,
    ) -> None:
        with Progress(stage, sum(len(job.photos) for job in jobs)) as progress:

            def done(job: shards.Shard, outcome: shards.Outcome) -> None:
                notes.take(outcome)
                progress.advance(len(job.photos))

            run_jobs(executor, function, jobs, done)

    def _complain_if_all_failed(self, stage: str, notes: StageNotes) -> None:
        if notes.failures and len(notes.failures) >= len(self.photos):
            reasons = Counter(notes.failures.values()).most_common(3)
            raise DataError(
                f"stage {stage} failed on each of the {len(self.photos)} photos: "
                + "; ".join(f"{reason} ({count})" for reason, count in reasons)
            )

    def _masks(self, executor: Executor, notes: StageNotes) -> None:
        self._each(executor, "masks", shards.run_masks, self._shards(self.photos.photos), notes)

    def _cluster(self, executor: Executor, notes: StageNotes) -> None:
        """Fit the clusterer on the embeddings of all masks, or take the centres of an earlier run."""
        photos = self.readable("masks")
        embeddings, scores, counts = read_embeddings(self.output, photos)
        state, ids = cluster_masks(self.settings, embeddings, scores)
        self.output.write_arrays(self.output.root / "clusters.npz", state)
        path = self.output.stages / "cluster" / "ids.npz"
        self.output.write_arrays(path, {"ids": ids, "counts": counts, "photos": np.array([p.id for p in photos])})
        notes.parts["masks"] = len(ids)

    def _stuff(self, executor: Executor, notes: StageNotes) -> None:
        """Fit the stuff segmenter on a sample of the photos, then label the stuff of all."""
        fitted = self.output.root / "stuff.npz"
        marker = self.output.stages / "stuff" / "fitted"
        if not (marker.exists() and fitted.exists()):
            self.output.write_arrays(fitted, self._fit_stuff(executor))
            self.output.write_json(marker, {})
        self._each(executor, "stuff", shards.run_stuff, self._shards(self.photos.photos), notes)

    def _fit_stuff(self, executor: Executor) -> dict[str, np.ndarray]:
        if self.settings["CLUSTERS"]["REUSE"]:
            return earlier_state(self.settings, "stuff.npz")
        chosen = sample_for_stuff(self.settings, self.photos.photos)
        jobs = self._shards(chosen)

        def features() -> Iterable[np.ndarray]:
            with Progress("stuff: fit", len(chosen)) as progress:
                results = run_in_order(executor, shards.run_features, jobs, window=2 * default_workers(1) + 2)
                for job, found in zip(jobs, results, strict=True):
                    yield from found
                    progress.advance(len(job.photos))

        return fit_stuff(self.settings, features())

    def _merge(self, executor: Executor, notes: StageNotes) -> None:
        with np.load(self.output.stages / "cluster" / "ids.npz") as file:
            cuts = np.cumsum(file["counts"])[:-1]
            clusters = dict(zip(file["photos"].tolist(), np.split(file["ids"], cuts), strict=True))
        photos = self.readable("masks", "stuff")
        self._each(executor, "merge", shards.run_merge, self._shards(photos, clusters), notes)

    def _write(self) -> Summary:
        photos = self.readable("masks", "stuff", "merge")
        skipped = {key: reason for stage in STAGES for key, reason in self._notes(stage).failures.items()}
        timings = {stage: self._notes(stage).to_json() for stage in STAGES}
        for notes in timings.values():
            notes.pop("failures")
        return write_dataset(
            self.output, self.photos, photos, skipped, self.settings, self.weights, timings, self.record()
        )

    def _notes(self, stage: str) -> StageNotes:
        done = self.ledger.done(stage)
        return StageNotes.from_json(done) if done else StageNotes()


def generator_table() -> list[dict[str, str]]:
    """Rows as those of `u2seg.plugins.registry.Plugins.table`, for ``--list-plugins``: the registered generators."""
    return [
        {
            "kind": "label generator",
            "name": name,
            "distribution": "u2seg (built in)" if found.__module__.startswith("u2seg.") else found.__module__,
            "arguments": "U2SEG.GENERATOR",
            "help": (inspect.getdoc(found) or "").split("\n")[0],
        }
        for name, found in sorted(PSEUDO_LABEL_GENERATORS)
    ]
