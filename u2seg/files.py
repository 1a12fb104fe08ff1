"""Files that are written whole or not at all, and directories in which nothing of the user's is overwritten."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.fields import read_json_object

MARKER = ".u2seg.json"
"""File that every output directory of this package carries."""
FORMAT = 2
"""Of output directories; raise it when an older one could be misread."""
_PART = re.compile(r"\.[0-9a-f]{32}\.part(\.\w+)?")
"""Names that `replacing` gives to temporary files."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Full disk, exhausted quota, broken disk: no fault of the path that the user gave."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open ``path`` to read without waiting, as opening a pipe does, and without reading from a device.

    Raises:
        OSError: it can't be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError("it is no regular file")
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with its ending, that becomes ``path`` when the block ends well.

    The folder is made if need be. Where the block raises, or writes nothing, ``path`` stays as it was.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        if temporary.exists():
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # so that a power failure leaves the old file or the new one, and no empty one
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # where the disk is the trouble, it must not hide what went wrong first
            temporary.unlink(missing_ok=True)


def sweep_parts(folder: Path) -> int:
    """Delete what killed writers left half written in ``folder``, and return the number of files.

    Call it only while no other process may write there (`locked`).
    """
    parts = [path for path in folder.iterdir() if _PART.fullmatch(path.name)]
    for path in parts:
        path.unlink(missing_ok=True)
    return len(parts)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``, where the system has file locks; a process that is forked holds it as well.

    Raises:
        UsageError: another process holds it; ``busy`` is the message.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path.parent.mkdir(exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(busy) from error
        yield


@contextlib.contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn what the system says against writing ``path`` into a `UsageError`.

    Raises:
        UsageError: the block raised an OSError.
        OSError: the disk is full or broken; the error names ``path``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "what should be its folder is a file" if blocked else error.strerror or error
        raise UsageError(f"{path} can't be written: {reason}") from error


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Size in bytes and time of change in ns of a file, by which a later look tells whether it has changed."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def file_sha256(path: Path) -> str:
    """sha256, hexadecimal, of the file ``path``."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, the same bytes for the same value."""
    write_bytes(path, json.dumps(value, indent=1).encode("ascii"))


def write_checked(path: Path, value: Any) -> None:
    """Write ``value`` as JSON under a line with its sha256, for `read_checked`."""
    content = json.dumps(value).encode("ascii")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
        file.write(content)  # apart, since a table of a million photos is large enough once


def read_checked(path: Path) -> dict[str, Any]:
    """The dict that `write_checked` wrote, or an empty one where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(check_content(path.read_bytes(), path))
    except (FileNotFoundError, ValueError):
        return {}
    return content


def check_content(written: bytes, name: str | Path) -> bytes:
    """What `write_checked` wrote under the line with its sha256; ``name`` is for messages.

    Raises:
        ValueError: it is damaged.
    """
    digest, _, content = written.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError(f"{name} has changed since it was written")
    return content


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Write an ``.npz``; the same bytes for the same arrays."""
    content = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W) or (H, W, 3), or uint16 (H, W), as PNG."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=6)


def claim_directory(path: str | os.PathLike[str], kind: str, option: str = "--output") -> Path:
    """Make ``path`` an output directory of this package, or take up one that is.

    Args:
        path: a new or empty directory, or one that carries the marker of ``kind``.
        kind: what it holds: "labels", "predictions", "gallery", ...
        option: what the user typed it for, named in messages.

    Raises:
        UsageError: it holds files that this package did not write, or another kind of output, or can't be written.
    """
    root = Path(path).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if reason := _reason_against(root, kind):
            raise UsageError(f"{option} {str(root)!r} {reason}; give {option} a new or an empty directory")
        if not (root / MARKER).exists():
            write_json(root / MARKER, {"format": FORMAT, "kind": kind})
        elif not os.access(root, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UsageError(f"{option} {str(root)!r} can't be written: {error.strerror}") from error
    return root


def is_output(folder: str | os.PathLike[str]) -> bool:
    """Whether ``folder`` is an output directory of this package, of any kind and format."""
    return os.path.isfile(os.path.join(folder, MARKER))


def _reason_against(root: Path, kind: str) -> str:
    """Why ``root`` can't become, or is no, output directory of ``kind``; empty where it can or is."""
    if not (root / MARKER).is_file():
        # The marker may have come since it was looked for: another process of the same run claims the directory too.
        names = sorted(path.name for path in root.iterdir() if path.name != MARKER and not path.match("*.part.json"))
        return f"holds files that u2seg did not write, such as {names[0]!r}" if names else ""
    try:
        marker = read_json_object(root / MARKER)
    except DataError:
        return f"has a damaged {MARKER}: delete that file if the directory is u2seg's own"
    if marker.get("format") != FORMAT:
        return f"has format {marker.get('format')}, and this u2seg reads {FORMAT}"
    return "" if marker.get("kind") == kind else f"holds {marker.get('kind')}, not {kind}"
