"""Training batches of STEGO: a crop, and one that looks alike.

Shapes: ``N`` crops; ``D`` channels; ``h, w`` feature grid; ``H, W`` pixels of a crop; ``k`` neighbours.

Which crops make batch ``i``, and which neighbour each gets, depends on the seed and ``i`` alone, as for every training
run of this package.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader

from u2seg.config import plain
from u2seg.data.loader import BatchSampler, MappedDataset, TrainLoader
from u2seg.data.mapper import Sample
from u2seg.data.stego_cache import CropFeatures, CropSettings, cache_directory, fill
from u2seg.data.stego_crops import NUM_PLACES, check_ratio, crop
from u2seg.data.stego_neighbours import cached_neighbours
from u2seg.errors import UsageError
from u2seg.images import PhotoSet, find_photos, read_image
from u2seg.pseudo import parts

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropSet:
    """The crops of a training run and what looks alike."""

    photos: PhotoSet
    settings: CropSettings
    arrays: CropFeatures
    usable: np.ndarray
    """int64 (n,), crops that have features."""
    neighbours: np.ndarray
    """int32 (n, k), places in ``usable``."""

    def __len__(self) -> int:
        return len(self.usable)

    def name(self, place: int) -> str:
        """The photo of the crop at ``place`` of ``usable``, for messages."""
        return self.photos.photos[int(self.usable[place]) // NUM_PLACES].path

    def take(self, place: int, prefix: str = "") -> Sample:
        """Features float16 (D, h, w), or pixels uint8 (H, W, 3), of the crop at ``place`` of ``usable``."""
        index = int(self.usable[place])
        if self.arrays.features is not None:
            return {f"{prefix}features": torch.from_numpy(np.array(self.arrays.features[index]))}
        image = read_image(self.photos.photos[index // NUM_PLACES].path)
        return {f"{prefix}crop": crop(image, index % NUM_PLACES, self.settings.ratio, self.settings.min_side)}

    def __call__(self, entry: Sample) -> Sample:
        """The training sample of ``entry``, ``{"place": ...}``; the neighbour is drawn from numpy's generator."""
        place = entry["place"]
        near = int(self.neighbours[place, np.random.randint(self.neighbours.shape[1])])
        return {"file_name": self.name(place), **self.take(place), **self.take(near, "near_")}


def build_crops(cfg: CfgNode) -> CropSet:
    """Crops of ``STEGO.IMAGES``, their features and neighbours, computed first where they are not cached.

    Raises:
        UsageError: a key can't be taken, or there are too few photos.
        DataError: no photo can be used.
    """
    stego = cfg.STEGO
    if not stego.IMAGES:
        raise UsageError("STEGO.IMAGES is empty: name a folder of photos")
    check_ratio(stego.CROP_RATIO)
    if stego.NUM_NEIGHBOURS < 1:
        raise UsageError(f"STEGO.NUM_NEIGHBOURS must be 1 or more, not {stego.NUM_NEIGHBOURS}")
    photos = find_photos(stego.IMAGES)
    extractor = parts.build_extractor(plain(cfg.U2SEG), cfg.MODEL.DEVICE)
    prepare = getattr(extractor, "prepare", dict)
    info: dict[str, Any] = prepare() if comm.is_main_process() else {}
    comm.synchronize()
    info = info or prepare()
    settings = CropSettings(stego.CROP_RATIO, stego.MIN_CROP, stego.CACHE_FEATURES)
    root = stego.CACHE or str(Path(cfg.OUTPUT_DIR) / "features")
    directory = cache_directory(root, photos, settings, info)
    logger.info("%d photos; what the frozen network says of their crops is kept in %s", len(photos), directory)
    arrays = fill(directory, photos, extractor, settings, comm.get_rank(), comm.get_world_size(), comm.synchronize)
    usable = arrays.usable
    search = (directory, arrays.pooled, usable, stego.NUM_NEIGHBOURS, stego.NEIGHBOUR_SEARCH, cfg.MODEL.DEVICE)
    if comm.is_main_process():
        cached_neighbours(*search)
    comm.synchronize()
    return CropSet(photos, settings, arrays, usable, cached_neighbours(*search))


class CropLoader(TrainLoader):
    """Iterates batches of crops; knows the set they are drawn from."""

    def __init__(self, loader: DataLoader[Sample], sampler: BatchSampler, crops: CropSet) -> None:
        super().__init__(loader, sampler)
        self.crops = crops


def build_crop_loader(cfg: CfgNode) -> CropLoader:
    """The training loader of learned stuff segmenters.

    Raises:
        UsageError: as `build_crops`; or the batch does not fit the number of processes or crops.
    """
    crops = build_crops(cfg)
    world_size, batch_size = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if batch_size < 1 or batch_size % world_size:
        raise UsageError(f"SOLVER.IMS_PER_BATCH {batch_size} can't be shared evenly among {world_size} processes")
    if batch_size > len(crops):
        raise UsageError(f"SOLVER.IMS_PER_BATCH {batch_size} is more than the {len(crops)} crops that there are")
    sampler = BatchSampler(len(crops), batch_size, seed=max(cfg.SEED, 0), rank=comm.get_rank(), world_size=world_size)
    loader = DataLoader(
        MappedDataset([{"place": place} for place in range(len(crops))], crops, sampler),
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread,
        # without one of its own, making an iterator draws from the generator that the model samples with
        generator=torch.Generator(),
    )
    logger.info("%d crops of %d photos, %d per batch", len(crops), len(crops.photos), batch_size)
    return CropLoader(loader, sampler, crops)


def _as_it_is(batch: list[Sample]) -> list[Sample]:
    return batch


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
