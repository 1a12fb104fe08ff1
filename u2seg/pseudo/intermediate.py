"""Intermediate files of a run: what one stage leaves for the next, a file for each photo and product.

``stages/<product>/<fingerprint>/<first two digits of the key>/<key>.<ending>``: a file that exists was made with what
its product depends on today, from the photo as it is today. A damaged one is deleted, and so made again.

Shapes: ``H, W`` pixels at which a photo is labelled (its own size, or smaller); ``N`` masks.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.files import file_sha256, read_checked, replacing, write_arrays
from u2seg.pseudo.embeddings import MaskVectors
from u2seg.structures import MaskSet

ENDINGS = {"features": ".npz", "masks": ".npz", "stuff": ".npz", "merge": ".json"}


class DamagedFileError(DataError):
    """An intermediate file could not be read; it has been deleted and can be made again."""


@dataclass(frozen=True)
class Intermediate:
    """The files of one product with one fingerprint."""

    root: Path
    """The output directory."""
    product: str
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Where all of them are."""
        return self.root / "stages" / self.product / self.fingerprint

    def path(self, key: str, ending: str = "") -> Path:
        """The file of the photo with ``key``."""
        return self.folder / key[:2] / f"{key}{ending or ENDINGS[self.product]}"

    def has(self, key: str) -> bool:
        """Whether that file exists."""
        return self.path(key).exists()


@contextlib.contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Delete ``path`` where the block can't make sense of it.

    Raises:
        DamagedFileError: so it was.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise nearly anything on half a file
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise  # the disk, not the file
        path.unlink(missing_ok=True)
        raise DamagedFileError(f"{path} was damaged ({type(error).__name__}) and has been deleted") from error


@dataclass(frozen=True)
class MaskRecord:
    """What the things of one photo leave."""

    masks: MaskSet
    """bool (N, H, W)"""
    vectors: MaskVectors | None
    """For clustering; None where the generator names masks itself."""
    photo_size: tuple[int, int]
    """The photo's own height and width, pixels."""
    extra: Mapping[str, np.ndarray]
    """Further arrays that a generator keeps for a stage of its own."""


def write_masks(path: Path, record: MaskRecord) -> None:
    """Write a `MaskRecord`, its masks as COCO's run-length codes."""
    from pycocotools import mask as coco

    masks = record.masks.masks
    codes = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []
    arrays = {
        "photo_size": np.array(record.photo_size),
        "mask_size": np.array(masks.shape[1:]),
        "counts": np.array([code["counts"] for code in codes], dtype=bytes),
        "scores": record.masks.scores,
        **(record.vectors._asdict() if record.vectors else {}),
        **record.extra,
    }
    write_arrays(path, arrays)


def read_masks(path: Path) -> MaskRecord:
    """Read what `write_masks` wrote.

    Raises:
        DamagedFileError: it is damaged.
    """
    from pycocotools import mask as coco

    with undamaged(path):
        arrays = read_arrays(path)
        height, width = arrays.pop("mask_size").tolist()
        codes = [{"size": [height, width], "counts": counts} for counts in arrays.pop("counts").tolist()]
        scores = arrays.pop("scores")
        vectors = MaskVectors(*map(arrays.pop, MaskVectors._fields)) if "vectors" in arrays else None
        size = tuple(arrays.pop("photo_size").tolist())
        if not codes:
            return MaskRecord(MaskSet.empty(height, width), vectors, size, arrays)
        masks = MaskSet(coco.decode(codes).transpose(2, 0, 1).astype(bool), scores)
        return MaskRecord(masks, vectors, size, arrays)


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz``, all or those ``names``; its checksums are verified.

    Raises:
        DamagedFileError: it is damaged.
    """
    with undamaged(path), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        return {name: file[name] for name in names or file.files}


def write_stuff(path: Path, stuff: np.ndarray) -> None:
    """Write a stuff map uint8 (H, W), 255 for none; not as PNG, whose readers let some damage pass."""
    write_arrays(path, {"stuff": stuff}, compress=True)


def read_stuff(path: Path) -> np.ndarray:
    """Read what `write_stuff` wrote.

    Raises:
        DamagedFileError: it is damaged.
    """
    return read_arrays(path, "stuff")["stuff"]


def read_entry(path: Path) -> dict[str, Any]:
    """Read what the dataset's JSON files will say of one photo, as `u2seg.pseudo.painting.merge_photos` has left it.

    Raises:
        DamagedFileError: it is damaged.
    """
    with undamaged(path):
        return read_checked(path)


def is_merged(merge: Intermediate, key: str) -> bool:
    """Whether the label of the photo with ``key`` is there and whole; a damaged one is deleted."""
    png = merge.path(key, ".png")
    try:
        if read_entry(merge.path(key))["png_sha256"] == file_sha256(png):
            return True
    except (DamagedFileError, KeyError, FileNotFoundError):
        pass
    for path in (merge.path(key), png):
        path.unlink(missing_ok=True)
    return False


def publish(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it where the file system has no links."""
    if target.exists() and os.path.samefile(source, target):
        return
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def sweep(root: Path, current: Mapping[str, tuple[str, set[str]]]) -> None:
    """Delete intermediate files that no photo of the run needs, and what killed runs left half written.

    Args:
        root: the output directory.
        current: product to its fingerprint and the keys of the photos.
    """
    shutil.rmtree(root / "stages" / "features", ignore_errors=True)
    for product, (fingerprint, keys) in current.items():
        folder = root / "stages" / product
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name != fingerprint:
                shutil.rmtree(entry, ignore_errors=True)
        for path in (folder / fingerprint).glob("*/*"):
            if path.name.split(".")[0] not in keys:
                path.unlink(missing_ok=True)
