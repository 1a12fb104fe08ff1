"""Features of all crops, computed once and kept on disk, since the network that makes them is frozen.

Shapes: ``N`` crops; ``D`` channels; ``h, w`` feature grid.

================ ================== ====================================================
``pooled.npy``   float32 (N, D)     mean of the features over the grid, unit length
``features.npy`` float16 (N, D, h, w) the features, where they are asked for
``status.npy``   uint8 (N,)         0 to do, 1 done, 2 the photo can't be read, 3 too small
``meta.json``                       what made them
================ ================== ====================================================

A run that is killed goes on where it was. Any number of processes fill one directory, each its own share of photos.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.data.stego_crops import NUM_PLACES, five_crops
from u2seg.errors import DataError, UsageError
from u2seg.images import PhotoSet, read_image
from u2seg.plugins.api import FeatureExtractor
from u2seg.pseudo.settings import photo_fingerprint
from u2seg.runtime import Progress

logger = logging.getLogger(__name__)

TO_DO, DONE, UNREADABLE, TOO_SMALL = range(4)


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut and what is kept of them."""

    ratio: float
    """Side of a crop over side of the photo."""
    min_side: int
    """Pixels; photos with smaller crops are left out."""
    keep_features: bool
    """Whether the features are written, or only their means."""


class CropFeatures:
    """The arrays of one cache directory, mapped into memory."""

    def __init__(self, directory: Path, keep_features: bool) -> None:
        self.directory = directory
        self.pooled = np.load(directory / "pooled.npy", mmap_mode="r")
        self.features = np.load(directory / "features.npy", mmap_mode="r") if keep_features else None
        self.status = np.load(directory / "status.npy", mmap_mode="r")

    @property
    def usable(self) -> np.ndarray:
        """Indices int64 (n,) of the crops that have features."""
        return np.flatnonzero(np.asarray(self.status) == DONE)


def cache_directory(root: str | Path, photos: PhotoSet, settings: CropSettings, info: Mapping[str, Any]) -> Path:
    """The directory below ``root`` for exactly these photos, crops and this extractor (as its ``info`` says)."""
    key = json.dumps([photo_fingerprint(photos), settings.ratio, settings.min_side, dict(info)], sort_keys=True)
    return Path(root).expanduser() / hashlib.sha256(key.encode()).hexdigest()[:16]


def fill(
    directory: Path,
    photos: PhotoSet,
    extractor: FeatureExtractor,
    settings: CropSettings,
    rank: int = 0,
    world_size: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> CropFeatures:
    """Compute what is missing in ``directory`` and return its arrays.

    Args:
        directory: from `cache_directory`.
        photos: whose crops are wanted.
        extractor: gives grids of one size for every crop.
        settings: how to cut.
        rank: this process, which takes every ``world_size``-th photo.
        world_size: number of processes.
        wait: returns when every process has called it.

    Raises:
        UsageError: the directory can't be written, or the disk is too small.
        DataError: no photo can be used.
    """
    try:
        if rank == 0:
            _create(directory, photos, extractor, settings)
        wait()
        _compute(directory, photos, extractor, settings, rank, world_size)
    except OSError as error:
        raise UsageError(f"features can't be kept in {directory}: {error.strerror or error}") from error
    wait()
    found = CropFeatures(directory, settings.keep_features)
    _report(found, settings)
    return found


def _create(directory: Path, photos: PhotoSet, extractor: FeatureExtractor, settings: CropSettings) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    count = len(photos) * NUM_PLACES
    wanted = {"pooled": ((count, extractor.dim), np.float32), "status": ((count,), np.uint8)}
    if settings.keep_features and not (directory / "features.npy").exists():
        sample = extractor.extract([np.zeros((64, 64, 3), np.uint8)])[0]
        wanted["features"] = ((count, *sample.shape), np.float16)
        # features may be wanted now and not before: those of every crop have to be made
        (directory / "status.npy").unlink(missing_ok=True)
    for name, (shape, kind) in wanted.items():
        path = directory / f"{name}.npy"
        if not path.exists():
            gigabytes = np.prod(shape, dtype=float) * np.dtype(kind).itemsize / 1e9
            logger.info("%s: %.2f GB", path, gigabytes)
            temporary = directory / f".{name}.npy"
            np.lib.format.open_memmap(temporary, "w+", kind, shape).flush()
            os.replace(temporary, path)
    meta = {"photos": str(photos.root), "count": len(photos), "features": getattr(extractor, "info", {})}
    (directory / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _compute(
    directory: Path, photos: PhotoSet, extractor: FeatureExtractor, settings: CropSettings, rank: int, world_size: int
) -> None:
    names = ["pooled", "status"] + (["features"] if settings.keep_features else [])
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r+") for name in names}
    mine = [i for i in range(rank, len(photos), world_size) if arrays["status"][i * NUM_PLACES] == TO_DO]
    if not mine:
        return
    with Progress("features of crops", len(mine)) as progress:
        for index in mine:
            _compute_photo(arrays, index, photos, extractor, settings)
            progress.advance(1)


def _compute_photo(
    arrays: Mapping[str, np.ndarray],
    index: int,
    photos: PhotoSet,
    extractor: FeatureExtractor,
    settings: CropSettings,
) -> None:
    rows = slice(index * NUM_PLACES, (index + 1) * NUM_PLACES)
    photo = photos.photos[index]
    try:
        image = read_image(photo.path)
    except DataError as error:
        logger.warning("photo %s is left out: %s", photo.name, error)
        arrays["status"][rows] = UNREADABLE
        return
    try:
        crops = five_crops(image, settings.ratio, settings.min_side)
    except DataError as error:
        logger.warning("photo %s is left out: %s", photo.name, error)
        arrays["status"][rows] = TOO_SMALL
        return
    found = np.stack(extractor.extract(crops))
    means = found.mean(axis=(2, 3))
    arrays["pooled"][rows] = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    if settings.keep_features:
        arrays["features"][rows] = found
    arrays["status"][rows] = DONE


def _report(found: CropFeatures, settings: CropSettings) -> None:
    counts = np.bincount(np.asarray(found.status), minlength=4) // NUM_PLACES
    if counts[UNREADABLE] or counts[TOO_SMALL]:
        logger.warning("left out: %d photos that can't be read, %d too small", counts[UNREADABLE], counts[TOO_SMALL])
    if not counts[DONE]:
        raise DataError(
            f"none of {counts.sum()} photos can be used: {counts[UNREADABLE]} can't be read, {counts[TOO_SMALL]} are "
            f"too small for crops of {settings.min_side} pixels (STEGO.MIN_CROP)"
        )
