"""Features of all crops, computed once and kept on disk, since the network that makes them is frozen.

Shapes: ``P`` photos; ``N`` = 5 P crops; ``D`` channels; ``h, w`` feature grid; ``H, W`` pixels. Crop ``i`` is place
``i % 5`` of photo ``i // 5``.

STEGO (ICLR 2022) cuts four corners and the centre, each half as high and wide as the photo, so that patches of the
frozen network cover smaller parts of the scene. A directory holds ``pooled.npy``, float32 (N, D), the mean of the
features over the grid at length 1 (zero: still to do; NaN: the photo is left out), and, where they are asked for,
``features.npy``, float16 (N, D, h, w). A run that is killed is resumed where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from u2seg.errors import DataError
from u2seg.files import in_words, replacing
from u2seg.images import PhotoSet, read_image
from u2seg.plugins.api import FeatureExtractor
from u2seg.pseudo.centres import unit_length
from u2seg.runtime import Progress

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class CropCache:
    """The features of the crops of some photos, in a directory for exactly these photos, crops and network."""

    root: Path
    photos: PhotoSet
    extractor: FeatureExtractor
    """Gives grids of one size for every crop."""
    info: dict[str, Any]
    """What the extractor says of itself."""
    ratio: float
    """Side of a crop over side of the photo."""
    min_side: int
    """Pixels; photos with smaller crops are left out."""
    keep_features: bool
    """Whether the features are written, or only their means."""

    @property
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

    def fill(self, rank: int = 0, world_size: int = 1, wait: Callable[[], None] = lambda: None) -> np.ndarray:
        """Compute what is missing, and return the indices int64 (n,) of the crops that have features.

        Process ``rank`` computes every ``world_size``-th photo; ``wait`` returns when every process has called it.

        Raises:
            UsageError: the directory can't be written, or the disk is too small.
            DataError: no photo can be used.
        """
        with in_words(self.directory):
            if rank == 0 and not (self.directory / "pooled.npy").exists():
                self._create()
            wait()
            pooled = self.array("pooled", "r+")
            features = self.array("features", "r+") if self.keep_features else None
            last = pooled[len(PLACES) - 1 :: len(PLACES)]
            photos = [index for index in range(rank, len(self.photos), world_size) if not last[index].any()]
            with Progress("features of crops", len(photos)) as progress:
                for index in photos:
                    self._compute(pooled, features, index)
                    progress.advance()
        wait()
        usable = ~np.isnan(pooled[:, 0])
        left_out = int((~usable).sum()) // len(PLACES)
        if left_out:
            logger.warning("left out: %d photos that can't be read, or are too small (STEGO.MIN_CROP)", left_out)
        if not usable.any():
            raise DataError(f"none of {left_out} photos can be used: give larger ones, or lower STEGO.MIN_CROP")
        return np.flatnonzero(usable)

    def _create(self) -> None:
        """Make the arrays, ``pooled`` last: where it is, all are."""
        shapes: dict[str, tuple[tuple[int, ...], type]] = {"pooled": ((self.extractor.dim,), np.float32)}
        if self.keep_features:
            grid = self.extractor.extract([np.zeros((64, 64, 3), np.uint8)])[0].shape
            shapes = {"features": (grid, np.float16), **shapes}
        for name, (shape, kind) in shapes.items():
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
