"""Training batches that are a function of the seed and the step alone.

Which photos make batch ``i``, and how each is augmented, depends on the seed and on ``i``, and on nothing that
happened before: so a resumed run sees what an unbroken one would have seen, whatever the number of workers, and the
batches of several processes together are those of one.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from u2seg.data.mapper import DATASET_MAPPERS, Sample
from u2seg.errors import DataError, UsageError, lookup

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

Draw = tuple[int, int]
"""Index of a photo, and its place in the stream of all photos drawn."""


class BatchSampler(Sampler[list[Draw]]):
    """An endless stream of shuffled epochs, cut into batches of photos of like orientation.

    Photos of one orientation are collected until they make a batch for all processes together, of which this one
    takes every ``world_size``-th.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int = 0,
        is_portrait: Sequence[bool] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Make a sampler.

        Args:
            size: number of photos.
            batch_size: of all processes together.
            seed: decides the order.
            is_portrait: for each photo, whether it is higher than wide; None does not tell them apart.
            rank: this process.
            world_size: number of processes.
        """
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.groups = [0] * size if is_portrait is None else [int(flag) for flag in is_portrait]
        self.rank, self.world_size = rank, world_size
        self.start_batch = 0
        """Batches to leave out, as a run that is resumed there already had them. Set it before iterating."""

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in itertools.islice(self._batches(), self.start_batch, None):
            yield batch[self.rank :: self.world_size]

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
            yield from torch.randperm(self.size, generator=generator).tolist()


class MappedDataset(Dataset[Sample]):
    """Maps each draw with generators seeded by its place in the stream."""

    def __init__(self, dicts: list[Sample], mapper: Any, sampler: BatchSampler) -> None:
        self.dicts = DatasetFromList(dicts, copy=False)
        self.mapper = mapper
        # the sampler's seed may still change when a run is resumed
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, draw: Draw) -> Sample:
        index, place = draw
        with seeded(self.sampler.seed, place):
            return self.mapper(self.dicts[index])

    def __getitems__(self, draws: list[Draw]) -> list[Sample]:
        """The samples of one batch, mixed by the mapper if it does that."""
        samples = [self[draw] for draw in draws]
        mix = getattr(self.mapper, "mix", None)
        return mix(samples, np.random.default_rng([self.sampler.seed, draws[0][1]])) if mix else samples


class seeded:  # noqa: N801  a context manager, used like a function
    """Seeds numpy's and Python's global generators, which augmentations draw from, and puts them back at the end."""

    def __init__(self, *entropy: int) -> None:
        self.words = np.random.SeedSequence(entropy).generate_state(4)

    def __enter__(self) -> None:
        self.before = np.random.get_state(), random.getstate()
        np.random.seed(self.words)
        random.seed(int(self.words[0]))

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self.before[0])
        random.setstate(self.before[1])


class TrainLoader:
    """Iterates batches, and remembers the last one."""

    def __init__(self, loader: DataLoader[Sample], sampler: BatchSampler) -> None:
        self.loader = loader
        self.sampler = sampler
        self.last_batch: list[Sample] = []

    def __iter__(self) -> Iterator[list[Sample]]:
        for batch in self.loader:
            self.last_batch = batch
            yield batch


def build_seeded_loader(
    dicts: list[Sample],
    mapper: Callable[[Sample], Sample],
    cfg: CfgNode,
    is_portrait: Sequence[bool] | None = None,
    make: Callable[[DataLoader[Sample], BatchSampler], TrainLoader] = TrainLoader,
) -> TrainLoader:
    """The loader of any training set: ``mapper`` makes a sample of each of ``dicts``.

    Args:
        dicts: the training set, one entry a photo (or a crop).
        mapper: called with an entry; numpy's and Python's global generators are seeded when it is.
        cfg: ``SOLVER.IMS_PER_BATCH``, ``DATALOADER.NUM_WORKERS`` and ``SEED`` count.
        is_portrait: for each entry, whether it is higher than wide; None does not tell them apart.
        make: a subclass of `TrainLoader`, or what makes one.

    Raises:
        UsageError: the processes can't share a batch evenly.
    """
    world_size, batch_size = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if batch_size < 1 or batch_size % world_size:
        raise UsageError(f"SOLVER.IMS_PER_BATCH {batch_size} can't be shared evenly among {world_size} processes")
    sampler = BatchSampler(
        len(dicts),
        batch_size,
        seed=max(cfg.SEED, 0),
        is_portrait=is_portrait,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    loader = DataLoader(
        MappedDataset(dicts, mapper, sampler),
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread,
        # without one of its own, making an iterator draws from the generator that the model samples with
        generator=torch.Generator(),
    )
    logger.info("%d entries, %d per batch, %d workers", len(dicts), batch_size, cfg.DATALOADER.NUM_WORKERS)
    return make(loader, sampler)


def training_dicts(cfg: CfgNode) -> list[Sample]:
    """Dataset dicts of ``DATASETS.TRAIN``, without those that have no segment to learn from.

    Raises:
        UsageError: no training set is named.
        DataError: nothing is left.
    """
    if not cfg.DATASETS.TRAIN:
        raise UsageError("DATASETS.TRAIN is empty: name the directory of a dataset, such as DATASETS.TRAIN my_labels")
    names = cfg.DATASETS.TRAIN
    try:
        dicts = get_detection_dataset_dicts(names, filter_empty=False, check_consistency=False)
    except (AssertionError, IndexError) as error:
        raise DataError(f"dataset {', '.join(names)} is empty") from error
    without = next((entry for entry in dicts if "pan_seg_file_name" not in entry), None)
    if without is not None:
        raise UsageError(f"{', '.join(names)} is no panoptic dataset: {without['file_name']} has no pan_seg_file_name")
    kept = [entry for entry in dicts if entry["segments_info"]]
    if len(kept) < len(dicts):
        logger.warning("%d of %d photos have no segment and are left out", len(dicts) - len(kept), len(dicts))
    if not kept:
        raise DataError(f"dataset {', '.join(names)} has {len(dicts)} photos, but none with a segment to learn from")
    return kept


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """The loader of ``DATASETS.TRAIN``.

    Raises:
        UsageError: the config names something that there is not, or its numbers do not fit each other.
        DataError: there is nothing to learn from.
    """
    dicts = training_dicts(cfg)
    name = cfg.INPUT.DATASET_MAPPER_NAME
    mapper = lookup("dataset mapper", name, dict(DATASET_MAPPERS))(cfg, is_train=True)
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise UsageError(f"DATALOADER.SAMPLER_TRAIN must be TrainingSampler, not {cfg.DATALOADER.SAMPLER_TRAIN!r}")
    if cfg.INPUT.COPY_PASTE.ENABLED and cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size() < 2:
        logger.warning("INPUT.COPY_PASTE pastes between photos of a batch and does nothing with one photo per process")
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    portraits = [entry["height"] > entry["width"] for entry in dicts] if grouped else None
    return build_seeded_loader(dicts, mapper, cfg, portraits)


def _as_it_is(batch: list[Sample]) -> list[Sample]:
    return batch


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
