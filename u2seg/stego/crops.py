"""Training batches of STEGO: a crop, and one that looks alike.

Shapes: ``N`` crops, ``n`` of which have features; ``D`` channels; ``h, w`` feature grid; ``H, W`` pixels of a crop;
``k`` neighbours.

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

from u2seg.data.loader import TrainLoader, build_seeded_loader
from u2seg.errors import UsageError
from u2seg.files import write_arrays
from u2seg.images import find_photos, read_image
from u2seg.plugins.api import FeatureExtractor
from u2seg.pseudo.parts import Part, build_once
from u2seg.runtime import Progress
from u2seg.stego.cache import PLACES, CropCache, crop

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
COSINES = 1 << 26
"""Cosines that are held at a time, 268 MB."""


def frozen_network(cfg: CfgNode) -> FeatureExtractor:
    """The extractor of ``U2SEG.FEATURES`` on ``MODEL.DEVICE``; the same object on every call."""
    return build_once(
        Part.from_config("feature extractor", cfg.U2SEG.FEATURES), device=cfg.MODEL.DEVICE, random_state=cfg.U2SEG.SEED
    )


@dataclass(frozen=True)
class CropSet:
    """The crops of a training run and what looks alike; a crop's place is its index among those that have features."""

    cache: CropCache
    indices: np.ndarray
    """int64 (n,), crops that have features."""
    neighbours: np.ndarray
    """int32 (n, k), places."""
    features: np.ndarray | None
    """float16 (N, D, h, w) of all crops, if they are kept."""

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, place: int, prefix: str = "") -> Sample:
        """Features float16 (D, h, w), or pixels uint8 (H, W, 3), of the crop at ``place``."""
        index = int(self.indices[place])
        if self.features is not None:
            return {f"{prefix}features": torch.from_numpy(np.array(self.features[index]))}
        pixels = crop(read_image(self._path(place)), index % len(PLACES), self.cache.ratio, self.cache.min_side)
        return {f"{prefix}crop": pixels}

    def pair(self, place: int, near: int) -> Sample:
        """The crop at ``place``, with the one at ``near`` as that which looks alike."""
        return {**self.sample(place), **self.sample(near, "near_")}

    def __call__(self, entry: Sample) -> Sample:
        """The training sample of ``entry``, ``{"place": ...}``; the neighbour is drawn from numpy's generator."""
        place = entry["place"]
        near = self.neighbours[place, np.random.randint(self.neighbours.shape[1])]
        return {"file_name": self._path(place), **self.pair(place, near)}

    def _path(self, place: int) -> str:
        return self.cache.photos.photos[self.indices[place] // len(PLACES)].path


def build_crops(cfg: CfgNode) -> CropSet:
    """Crops of ``STEGO.IMAGES``, their features and neighbours, computed first where they are not cached.

    Raises:
        UsageError: a key can't be taken, or there are too few photos.
        DataError: no photo can be used.
    """
    stego = cfg.STEGO
    if not stego.IMAGES:
        raise UsageError("STEGO.IMAGES is empty: name a folder of photos")
    photos, extractor = find_photos(stego.IMAGES), frozen_network(cfg)
    prepare = getattr(extractor, "prepare", dict)
    info: dict[str, Any] = prepare() if comm.is_main_process() else {}
    comm.synchronize()  # one process fetches the weights
    root = Path(stego.CACHE or f"{cfg.OUTPUT_DIR}/features").expanduser()
    settings = stego.CROP_RATIO, stego.MIN_CROP, stego.CACHE_FEATURES
    cache = CropCache(root, photos, extractor, info or prepare(), *settings)
    logger.info("%d photos; what the frozen network says of their crops is in %s", len(photos), cache.directory)
    indices = cache.fill(comm.get_rank(), comm.get_world_size(), comm.synchronize)
    file = cache.directory / f"neighbours_{stego.NUM_NEIGHBOURS}.npz"
    if comm.is_main_process() and not file.exists():
        index = nearest(cache.array("pooled")[indices], stego.NUM_NEIGHBOURS, cfg.MODEL.DEVICE)
        write_arrays(file, {"neighbours": index})
    comm.synchronize()
    with np.load(file) as arrays:
        return CropSet(cache, indices, arrays["neighbours"], cache.array("features") if cache.keep_features else None)


def nearest(vectors: np.ndarray, k: int, device: str = "cpu") -> np.ndarray:
    """The nearest others of each of ``vectors`` float32 (n, D), of unit length, by cosine: int32 (n, k), best first.

    Raises:
        UsageError: there are not more than ``k`` vectors.
    """
    if len(vectors) <= k:
        raise UsageError(
            f"{len(vectors)} crops are too few for {k} neighbours each (STEGO.NUM_NEIGHBOURS): add photos, or lower it"
        )
    everything, blocks = torch.from_numpy(vectors).to(device), []
    with Progress("nearest neighbours", len(vectors), "crop") as progress:
        for queries in torch.arange(len(vectors), device=device).split(max(1, COSINES // len(vectors))):
            cosine = everything[queries] @ everything.T
            cosine.scatter_(1, queries[:, None], -2.0)  # a vector is no neighbour of its own
            blocks.append(cosine.topk(k, dim=1).indices.cpu())
            progress.advance(len(queries))
    return torch.cat(blocks).numpy().astype(np.int32)


def build_crop_loader(cfg: CfgNode) -> TrainLoader:
    """The training loader of learned stuff segmenters; its ``mapper`` is the `CropSet`.

    Raises:
        UsageError: as `build_crops`; or the batch does not fit the number of processes or crops.
    """
    crops, batch_size = build_crops(cfg), cfg.SOLVER.IMS_PER_BATCH
    if len(crops) < batch_size:
        raise UsageError(f"SOLVER.IMS_PER_BATCH {batch_size} is more than the {len(crops)} crops that there are")
    return build_seeded_loader([{"place": place} for place in range(len(crops))], crops, cfg)
