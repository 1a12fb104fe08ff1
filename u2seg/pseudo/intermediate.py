"""Intermediate files of a run: what one stage leaves for the next, a record for each photo and product.

A worker writes a file of its own for each record, ``stages/<product>/<fingerprint>/<first two digits of the
key>/<key>.<ending>``; the run packs them into *shards* (`u2seg.pseudo.index`), and who reads does not know where a
record lies. One that exists was made with what its product depends on today, from the photo as it is today. A damaged
one is dropped, and so made again: all that read one here raise `DamagedFileError` then.

A shard is a ZIP archive whose central directory is the index. Records are stored as they are, each with its CRC-32. It
is written once, under a name that no other ever has, and replaced by a new one where records leave it: whoever has it
open is never surprised.

Shapes: ``H, W`` pixels at which a photo is labelled (its own size, or smaller); ``N`` masks.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.files import check_content, replacing, write_arrays
from u2seg.panoptic.run_lengths import encode_masks
from u2seg.pseudo.embeddings import MaskVectors
from u2seg.structures import MaskSet

SHARD_ENDING = ".zip"
ENDINGS = {"features": ".npz", "masks": ".npz", "stuff": ".npz", "merge": ".json"}


class DamagedFileError(DataError):
    """A record could not be read and can be made again: its file is deleted, or the run drops it from its shard."""

    def __init__(self, message: str, product: str = "", key: str = "") -> None:
        super().__init__(message)
        self.product, self.key = product, key


@dataclass
class Intermediate:
    """The records of one product with one fingerprint."""

    root: Path
    """The output directory."""
    product: str
    fingerprint: str
    shards: dict[str, str] = field(default_factory=dict)
    """Key of each photo whose record is packed to the name of the shard; in a job, of the photos of the job."""

    @cached_property
    def folder(self) -> Path:
        """Where all of them are."""
        return self.root / "stages" / self.product / self.fingerprint

    @property
    def ending(self) -> str:
        """Of the name of each record."""
        return ENDINGS[self.product]

    def path(self, key: str, ending: str = "") -> Path:
        """Where a worker writes the record of the photo with ``key``."""
        return self.folder / f"{key[:2]}/{key}{ending or self.ending}"

    def has(self, key: str) -> bool:
        """Whether that record exists."""
        return key in self.shards or self.path(key).exists()

    @contextlib.contextmanager
    def reading(self, key: str) -> Iterator[bytes]:
        """The record of the photo with ``key``, as it was written; the block makes sense of it.

        Raises:
            DamagedFileError: it can't be read, or the block raised.
        """
        shard, name = self.folder / self.shards.get(key, ""), f"{key}{self.ending}"
        with undamaged(self.path(key), f"{shard}/{name}" if key in self.shards else "", self.product, key):
            yield _open_shard(str(shard)).read(name) if key in self.shards else self.path(key).read_bytes()


@contextlib.contextmanager
def undamaged(path: Path, place: str = "", product: str = "", key: str = "") -> Iterator[None]:
    """Delete ``path`` where the block can't make sense of it, or of the record of ``product`` and ``key`` at ``place``.

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
        told = f"{place or path} was damaged ({type(error).__name__}) and has been dropped"
        raise DamagedFileError(told, product, key) from error


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
    arrays = {
        "photo_size": np.array(record.photo_size),
        "mask_size": np.array(record.masks.masks.shape[1:]),
        "counts": np.array([code["counts"] for code in encode_masks(record.masks.masks)], dtype=bytes),
        "scores": record.masks.scores,
        **(record.vectors._asdict() if record.vectors else {}),
        **record.extra,
    }
    write_arrays(path, arrays)


def read_masks(files: Intermediate, key: str) -> MaskRecord:
    """Read what `write_masks` wrote for the photo with ``key``."""
    from pycocotools import mask as coco

    with files.reading(key) as content:
        arrays = load_arrays(content)
        height, width = arrays.pop("mask_size").tolist()
        codes = [{"size": [height, width], "counts": counts} for counts in arrays.pop("counts").tolist()]
        scores = arrays.pop("scores")
        vectors = MaskVectors(*map(arrays.pop, MaskVectors._fields)) if "vectors" in arrays else None
        size = tuple(arrays.pop("photo_size").tolist())
        if not codes:
            return MaskRecord(MaskSet.empty(height, width), vectors, size, arrays)
        masks = MaskSet(coco.decode(codes).transpose(2, 0, 1).astype(bool), scores)
        return MaskRecord(masks, vectors, size, arrays)


def load_arrays(content: bytes, *names: str) -> dict[str, np.ndarray]:
    """Arrays of the ``.npz`` with this ``content``, all or those ``names``; its checksums are verified."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in names or file.files}


def read_arrays(files: Intermediate, key: str, *names: str) -> dict[str, np.ndarray]:
    """Arrays of the record of the photo with ``key``, all or those ``names``."""
    with files.reading(key) as content:
        return load_arrays(content, *names)


def write_stuff(path: Path, stuff: np.ndarray) -> None:
    """Write a stuff map uint8 (H, W), 255 for none; not as PNG, whose readers let some damage pass."""
    write_arrays(path, {"stuff": stuff}, compress=True)


def read_stuff(files: Intermediate, key: str) -> np.ndarray:
    """Read what `write_stuff` wrote for the photo with ``key``."""
    return read_arrays(files, key, "stuff")["stuff"]


def read_entry(files: Intermediate, key: str) -> dict[str, Any]:
    """Read what the dataset's JSON files will say of one photo, as `u2seg.pseudo.painting.merge_photos` has left it."""
    with files.reading(key) as content:
        entry: dict[str, Any] = json.loads(check_content(content, key))
        return entry


def write_shard(folder: Path, records: Iterable[tuple[str, bytes]]) -> tuple[str, list[str]]:
    """Write ``records``, each a name and its content, to a new shard in ``folder``; nothing where there are none.

    Returns:
        The name of the shard, and those of its records.
    """
    shard, records = f"{uuid.uuid4().hex}{SHARD_ENDING}", iter(records)
    first = next(records, None)
    if first is None:
        return shard, []
    with replacing(folder / shard) as temporary, zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
        for name, content in chain([first], records):
            archive.writestr(zipfile.ZipInfo(name), content)
        return shard, archive.namelist()


def list_records(path: Path) -> list[str]:
    """Names of the records of a shard as it is now, in order; it raises nearly anything on a damaged directory."""
    _open_shard.cache_clear()
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


@lru_cache(maxsize=8)
def _open_shard(path: str) -> zipfile.ZipFile:
    """The archive at ``path``, its directory read once; photos that follow each other lie in few shards."""
    return zipfile.ZipFile(path)
