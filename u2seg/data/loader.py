"""Training batches that are a function of the seed and the step alone.

Which photos make batch ``i``, and how each is augmented, depends on the seed and on ``i``, and on nothing that
happened before: so a resumed run sees what an unbroken one would have seen, whatever the number of workers, and the
batches of several processes together are those of one. Detectron2 cuts the stream into batches and runs the workers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Dataset, Sampler

from u2seg.data.mapper import Sample, build_mapper
from u2seg.data.training_set import EntryFile, training_dicts
from u2seg.errors import DataError, U2SegError, UsageError
from u2seg.plugins.guard import describe, print_traceback
from u2seg.structures import STUFF_VOID

logger = logging.getLogger(__name__)

BATCHES_WITHOUT_LABELS = 20
"""At the start, from which on training stops."""

Draw = tuple[int, int]
"""Index of a photo, and its place in the stream of all photos drawn."""


class BatchSampler(Sampler[Draw]):
    """An endless stream of shuffled epochs, in an order that makes batches of photos of like orientation.

    Photos of one orientation are collected until they make a batch for all processes together, of which this one
    takes every ``world_size``-th.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        is_portrait: Sequence[bool] | np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Draw batches of ``batch_size`` for all processes together out of ``size`` photos, as ``seed`` decides.

        ``is_portrait`` says which photos are higher than wide; None does not tell them apart.
        """
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.groups = np.zeros(size, np.uint8) if is_portrait is None else np.array(is_portrait, np.uint8)
        self.rank, self.world_size = rank, world_size
        self.start_batch = 0
        """Batches to leave out, as a run that is resumed there already had them. Set it before iterating."""

    def __iter__(self) -> Iterator[Draw]:
        for batch in itertools.islice(self._batches(), self.start_batch, None):
            yield from batch[self.rank :: self.world_size]

    def _batches(self) -> Iterator[list[Draw]]:
        waiting: tuple[list[Draw], list[Draw]] = ([], [])
        for place, index in enumerate(self._photos()):
            group = waiting[self.groups[index]]
            group.append((index, place))
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()

    def _photos(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from map(int, torch.randperm(self.size, generator=generator).numpy())


class MappedDataset(Dataset[tuple[int, Sample]]):
    """Maps each draw with generators seeded by its place in the stream."""

    def __init__(self, dicts: Sequence[Sample], mapper: Callable[[Sample], Sample], sampler: BatchSampler) -> None:
        self.dicts = dicts if isinstance(dicts, EntryFile) else DatasetFromList(list(dicts), copy=False)
        self.mapper = mapper
        # the sampler's seed may still change when a run is resumed
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, draw: Draw) -> tuple[int, Sample]:
        index, place = draw
        entry = self.dicts[index]
        try:
            with seeded(self.sampler.seed, place):
                return place, self.mapper(entry)
        except U2SegError:
            raise
        except Exception as error:  # a mapper or an augmentation may be a plugin's
            name, module = getattr(self.mapper, "__name__", type(self.mapper).__name__), self.mapper.__module__
            what = f"photo {entry.get('file_name')}: dataset mapper {name} of {module}"
            print_traceback(what)
            raise DataError(f"{what}: {describe(error, {module.split('.')[0]})}") from error

    def collate(self, draws: list[tuple[int, Sample]]) -> list[Sample]:
        """The samples of one batch, mixed by the mapper if it does that."""
        samples = [sample for _, sample in draws]
        mix = getattr(self.mapper, "mix", None)
        return mix(samples, np.random.default_rng([self.sampler.seed, draws[0][0]])) if mix else samples


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed numpy's and Python's global generators, which augmentations draw from, and put them back at the end."""
    words = np.random.SeedSequence(entropy).generate_state(4)
    before = np.random.get_state(), random.getstate()
    np.random.seed(words)
    random.seed(int(words[0]))
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


class TrainLoader:
    """Iterates batches; its ``sampler`` is told where a resumed run starts."""

    def __init__(self, loader: DataLoader[Sample], sampler: BatchSampler, mapper: Callable[[Sample], Sample]) -> None:
        self.loader, self.sampler, self.mapper = loader, sampler, mapper

    def __iter__(self) -> Iterator[list[Sample]]:
        unlabelled: int | None = 0
        for batch in self.loader:
            if unlabelled is not None:
                empty = all(bool((sample["sem_seg"] == STUFF_VOID).all()) for sample in batch if "sem_seg" in sample)
                unlabelled = unlabelled + 1 if empty and "sem_seg" in batch[0] else None
            if unlabelled == BATCHES_WITHOUT_LABELS:
                raise DataError(f"the first {unlabelled} batches hold no labelled pixel, so nothing can be learnt")
            yield batch


def build_seeded_loader(
    dicts: Sequence[Sample],
    mapper: Callable[[Sample], Sample],
    cfg: CfgNode,
    is_portrait: Sequence[bool] | np.ndarray | None = None,
) -> TrainLoader:
    """The loader of any training set: ``mapper`` makes a sample of each of ``dicts``.

    Args:
        dicts: the training set, one entry a photo (or a crop).
        mapper: called with an entry; numpy's and Python's global generators are seeded when it is.
        cfg: ``SOLVER.IMS_PER_BATCH``, ``DATALOADER.NUM_WORKERS`` and ``SEED`` count.
        is_portrait: for each entry, whether it is higher than wide; None does not tell them apart.

    Raises:
        UsageError: the processes can't share a batch evenly.
    """
    world_size, batch_size, seed = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH, max(cfg.SEED, 0)
    if batch_size < 1 or batch_size % world_size:
        raise UsageError(f"SOLVER.IMS_PER_BATCH {batch_size} can't be shared evenly among {world_size} processes")
    sampler = BatchSampler(len(dicts), batch_size, seed, is_portrait, comm.get_rank(), world_size)
    dataset = MappedDataset(dicts, mapper, sampler)
    loader = build_detection_train_loader(
        dataset,
        mapper=None,
        sampler=sampler,
        total_batch_size=batch_size,
        aspect_ratio_grouping=False,  # the sampler groups, so that no half-filled group is lost when a run stops
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=dataset.collate,
        seed=seed,  # without it, making an iterator draws from the generator that the model samples with
    )
    return TrainLoader(loader, sampler, mapper)


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """The loader of ``DATASETS.TRAIN``.

    Raises:
        UsageError: the config names something that there is not, or its numbers do not fit each other.
        DataError: there is nothing to learn from.
    """
    dicts = training_dicts(cfg)
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise UsageError(f"DATALOADER.SAMPLER_TRAIN must be TrainingSampler, not {cfg.DATALOADER.SAMPLER_TRAIN!r}")
    if cfg.INPUT.COPY_PASTE.ENABLED and cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size() < 2:
        logger.warning("INPUT.COPY_PASTE pastes between photos of a batch and does nothing with one photo per process")
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    is_portrait = np.fromiter((e["height"] > e["width"] for e in dicts), bool, len(dicts)) if grouped else None
    logger.info("%d photos, %d per batch", len(dicts), cfg.SOLVER.IMS_PER_BATCH)
    return build_seeded_loader(dicts, build_mapper(cfg, is_train=True), cfg, is_portrait)
