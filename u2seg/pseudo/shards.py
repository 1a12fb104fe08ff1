"""A shard: records of many photos in one file, a ZIP archive whose central directory is the index.

Records are stored as they are, each with its CRC-32. A shard is written once, under a name that no other ever has, and
replaced by a new one where records leave it: whoever has it open is never surprised.
"""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path

from u2seg.files import replacing

ENDING = ".zip"


def write_shard(folder: Path, records: Iterable[tuple[str, bytes]]) -> tuple[str, list[str]]:
    """Write ``records``, each a name and its content, to a new shard in ``folder``; nothing where there are none.

    Returns:
        The name of the shard, and those of its records.
    """
    shard, records = f"{uuid.uuid4().hex}{ENDING}", iter(records)
    first = next(records, None)
    if first is None:
        return shard, []
    with replacing(folder / shard) as temporary, zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
        for name, content in chain([first], records):
            archive.writestr(zipfile.ZipInfo(name), content)
        return shard, archive.namelist()


def list_records(path: Path) -> list[str]:
    """Names of the records of a shard as it is now, in order; it raises nearly anything on a damaged directory."""
    _open.cache_clear()
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def read_record(path: str, name: str) -> bytes:
    """Content of a record, its checksum verified; it raises nearly anything on damage."""
    return _open(path).read(name)


@lru_cache(maxsize=8)
def _open(path: str) -> zipfile.ZipFile:
    """The archive at ``path``, its directory read once; photos that follow each other lie in few shards."""
    return zipfile.ZipFile(path)
