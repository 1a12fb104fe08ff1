"""Files written under a temporary name and renamed: whole or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from u2seg.errors import UsageError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, with its ending, that becomes ``path`` when the block ends well.

    The folder is made if need be. Where the block leaves the temporary file away, ``path`` stays as it was.

    Raises:
        UsageError: it can't be written.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        try:
            yield part
            if part.exists():
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "what should be its folder is a file" if blocked else error.strerror or error
        raise UsageError(f"{path} can't be written: {reason}") from error
