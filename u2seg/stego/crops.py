"""Training batches of STEGO: a crop, and one that looks alike.

Shapes: ``P`` photos; ``N`` = 5 P crops, ``n`` of which have features; ``D`` channels; ``h, w`` feature grid; ``H, W``
pixels; ``k`` neighbours. Crop ``i`` is corner or centre ``i % 5`` of photo ``i // 5``.

STEGO (ICLR 2022) cuts four corners and the centre, each half as high and wide as the photo, so that patches of the
frozen network cover smaller parts of the scene. What the network says of them is computed once and kept on disk.

Which crops make batch ``i``, and which neighbour each gets, depends on the seed and ``i`` alone, as for every training
run of this package.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from sklearn.neighbors import NearestNeighbors

from u2seg.data.loader import TrainLoader, build_seeded_loader
from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, replacing, write_arrays
from u2seg.images import PhotoSet, find_photos, read_image
from u2seg.plugins.api import FeatureExtractor
from u2seg.pseudo.clusters import unit_length
from u2seg.pseudo.parts import Part, build_once
from u2seg.runtime import track

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
"""Where a crop lies: share of the free room above it, and left of it."""


def crop(image: np.ndarray, place: int, ratio: float, min_side: int) -> np.ndarray:
    """The crop uint8 (ratio * H, ratio * W, 3) of ``image`` uint8 (H, W, 3) at one of `PLACES`.

    Raises:
        DataError: it would have fewer than ``min_side`` pixels on a side.
    """
    height, width = round(image.shape[0] * ratio), round(image.shape[1] * ratio)
    if min(height, width) < min_side:
        raise DataError(
            f"{image.shape[1]} x {image.shape[0]} pixels are too few: a crop would have {width} x {height}, "
            f"and needs {min_side} (STEGO.MIN_CROP) on each side"
        )
    down, right = PLACES[place]
    top, left = round((image.shape[0] - height) * down), round((image.shape[1] - width) * right)
    return np.ascontiguousarray(image[top : top + height, left : left + width])


@dataclass
class CropSet:
    """The crops of some photos and what looks alike; maps entries of the training loader to samples.

    A directory for exactly these photos, crops and network holds ``pooled.npy``, float32 (N, D), the mean of the
    features over the grid at length 1 (zero: still to do; NaN: the photo is left out), and, where they are asked for,
    ``features.npy``, float16 (N, D, h, w). A run that is killed is resumed where it was.
    """

    root: Path
    photos: PhotoSet
    extractor: FeatureExtractor  # Gives grids of one size for every crop
    info: dict[str, Any]  # What the extractor says of itself
    ratio: float  # Side of a crop over side of the photo
    min_side: int  # Pixels; photos with smaller crops are left out
    keep_features: bool  # Whether the features are written, or only their means
    indices: np.ndarray = field(init=False)
    """int64 (n,), crops that have features, set by `fill`; a crop's place is its index in here."""
    neighbours: np.ndarray = field(init=False)  # int32 (n, k), places, set by `find_neighbours`

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def directory(self) -> Path:
        """Where the arrays lie; its name is a hash of all that they depend on."""
        paths = [Path(photo.path) for photo in self.photos.photos]
        sizes = [path.stat().st_size if path.exists() else -1 for path in paths]
        names = [photo.name for photo in self.photos.photos]
        key = [names, sizes, self.ratio, self.min_side, self.keep_features, self.info]
        return self.root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]

    def array(self, name: str, mode: Literal["r", "r+"] = "r") -> np.ndarray:
        """``pooled`` or ``features``, mapped into memory."""
        return np.load(self.directory / f"{name}.npy", mmap_mode=mode)

    def fill(self) -> None:
        """Compute the features that are missing; each process does its share of the photos, and waits for the others.

        Raises:
            UsageError: the directory can't be written, or the disk is too small.
            DataError: no photo can be used.
        """
        with in_words(self.directory):
            if comm.is_main_process() and not (self.directory / "pooled.npy").exists():
                self._create()
            comm.synchronize()
            pooled = self.array("pooled", "r+")
            features = self.array("features", "r+") if self.keep_features else None
            last = pooled[len(PLACES) - 1 :: len(PLACES)]
            share = range(comm.get_rank(), len(self.photos), comm.get_world_size())
            missing = [index for index in share if not last[index].any()]
            for index in track(missing, "features of crops", len(missing)):
                self._compute(pooled, features, index)
        comm.synchronize()
        usable = ~np.isnan(pooled[:, 0])
        left_out = int((~usable).sum()) // len(PLACES)
        if left_out:
            logger.warning("left out: %d photos that can't be read, or are too small (STEGO.MIN_CROP)", left_out)
        if not usable.any():
            raise DataError(f"none of {left_out} photos can be used: give larger ones, or lower STEGO.MIN_CROP")
        self.indices = np.flatnonzero(usable)

    def _create(self) -> None:
        """Make the arrays, ``pooled`` last: where it is, all are."""
        grid = self.extractor.extract([np.zeros((64, 64, 3), np.uint8)])[0].shape
        arrays = [("features", grid, np.float16)] if self.keep_features else []
        for name, shape, kind in [*arrays, ("pooled", grid[:1], np.float32)]:
            path = self.directory / f"{name}.npy"
            with replacing(path) as temporary:
                array = np.lib.format.open_memmap(temporary, "w+", kind, (len(self.photos) * len(PLACES), *shape))
                logger.info("%s: %.2f GB", path, array.nbytes / 1e9)

    def _compute(self, pooled: np.ndarray, features: np.ndarray | None, index: int) -> None:
        rows = slice(index * len(PLACES), (index + 1) * len(PLACES))
        photo = self.photos.photos[index]
        try:
            image = read_image(photo.path)
            crops = [crop(image, place, self.ratio, self.min_side) for place in range(len(PLACES))]
        except DataError as error:
            logger.warning("photo %s is left out: %s", photo.name, error)
            pooled[rows] = np.nan
            return
        extracted = np.stack(self.extractor.extract(crops))
        if features is not None:
            features[rows] = extracted
        pooled[rows] = unit_length(extracted.mean(axis=(2, 3)))

    def find_neighbours(self, k: int) -> None:
        """Find, once, the ``k`` nearest crops of each; raises UsageError as `nearest`."""
        file = self.directory / f"neighbours_{k}.npz"
        logger.info("nearest neighbours of %d crops", len(self))
        if comm.is_main_process() and not file.exists():
            write_arrays(file, {"neighbours": nearest(self.array("pooled")[self.indices], k)})
        comm.synchronize()
        with np.load(file) as arrays:
            self.neighbours = arrays["neighbours"]

    def sample(self, place: int) -> Sample:
        """``features`` float16 (D, h, w), or ``crop`` uint8 (H, W, 3), of the crop at ``place``."""
        index = int(self.indices[place])
        if self.keep_features:
            return {"features": torch.from_numpy(np.array(self.array("features")[index]))}
        return {"crop": crop(read_image(self._path(place)), index % len(PLACES), self.ratio, self.min_side)}

    def __call__(self, entry: Sample) -> Sample:
        """The training sample of ``entry``, ``{"place": ...}``; the neighbour is drawn from numpy's generator."""
        place = entry["place"]
        near = self.sample(self.neighbours[place, np.random.randint(self.neighbours.shape[1])])
        near = {f"near_{key}": value for key, value in near.items()}
        return {"file_name": self._path(place), **self.sample(place), **near}

    def _path(self, place: int) -> str:
        return self.photos.photos[self.indices[place] // len(PLACES)].path


def frozen_network(cfg: CfgNode) -> FeatureExtractor:
    """The extractor of ``U2SEG.FEATURES`` on ``MODEL.DEVICE``; the same object on every call."""
    part = Part.from_config("feature extractor", cfg.U2SEG.FEATURES)
    return build_once(part, device=cfg.MODEL.DEVICE, random_state=cfg.U2SEG.SEED)


def build_crops(cfg: CfgNode) -> CropSet:
    """Crops of ``STEGO.IMAGES``, their features and neighbours, computed first where they are not on disk.

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
    crops = CropSet(root, photos, extractor, info or prepare(), *settings)
    logger.info("%d photos; what the frozen network says of their crops is in %s", len(photos), crops.directory)
    crops.fill()
    crops.find_neighbours(stego.NUM_NEIGHBOURS)
    return crops


def nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """The nearest others of each of ``vectors`` float32 (n, D), of unit length, by cosine: int32 (n, k), best first.

    Raises:
        UsageError: there are not more than ``k`` vectors.
    """
    if len(vectors) <= k:
        raise UsageError(
            f"{len(vectors)} crops are too few for {k} neighbours each (STEGO.NUM_NEIGHBOURS): add photos, or lower it"
        )
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(vectors)  # at unit length, distance sorts as cosine
    return search.kneighbors(return_distance=False).astype(np.int32)  # without itself


def build_crop_loader(cfg: CfgNode) -> TrainLoader:
    """The training loader of learned stuff segmenters; its ``mapper`` is the `CropSet`.

    Raises:
        UsageError: as `build_crops`; or the batch does not fit the number of processes or crops.
    """
    crops, batch_size = build_crops(cfg), cfg.SOLVER.IMS_PER_BATCH
    if len(crops) < batch_size:
        raise UsageError(f"SOLVER.IMS_PER_BATCH {batch_size} is more than the {len(crops)} crops that there are")
    return build_seeded_loader([{"place": place} for place in range(len(crops))], crops, cfg)
