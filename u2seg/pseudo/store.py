"""The output directory: what lies where, written whole or not at all.

::

    run.json  panoptic.json  panoptic/*.png  instances.json  clusters.npz  stuff.npz      the dataset
    stages/settings.json  stages/{masks,stuff,merge}/...  stages/{masks,cluster,stuff,merge}.done    the workshop

Every file is written under ``stages/tmp`` and renamed, so that a run that is killed leaves no half file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from u2seg.errors import UsageError

STAGES = ("masks", "cluster", "stuff", "merge")


class OutputDirectory:
    """Names and writes the files of one run. Cheap to pickle; safe for many processes at once."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.stages = self.root / "stages"

    def stage_file(self, stage: str, label: str, ending: str) -> Path:
        """File of one photo in one stage; ``label`` is the photo's label PNG."""
        return self.stages / stage / f"{label.removesuffix('.png')}{ending}"

    def panoptic_file(self, label: str) -> Path:
        """The photo's panoptic PNG."""
        return self.root / "panoptic" / label

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a temporary file that becomes ``path`` when the block ends well."""
        temporary = self.stages / "tmp" / uuid.uuid4().hex
        temporary.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def write_json(self, path: Path, value: Any) -> None:
        """Write ``value`` as JSON, the same bytes for the same value."""
        with self.writing(path) as file:
            file.write(json.dumps(value, indent=1).encode("ascii"))

    def write_json_lists(self, path: Path, head: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> None:
        """Write ``{**head, **lists}`` as JSON, taking the entries of ``lists`` one at a time."""
        with self.writing(path) as file:
            text = io.TextIOWrapper(file, encoding="ascii", write_through=True)
            text.write("{")
            for key, value in head.items():
                text.write(f"{json.dumps(key)}: {json.dumps(value)},\n")
            for index, (key, entries) in enumerate(lists.items()):
                text.write((",\n" if index else "") + f"{json.dumps(key)}: [")
                for position, entry in enumerate(entries):
                    text.write((",\n" if position else "\n") + json.dumps(entry))
                text.write("\n]")
            text.write("}\n")
            text.detach()

    def write_arrays(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Write an ``.npz``."""
        with self.writing(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def write_png(self, path: Path, pixels: np.ndarray) -> None:
        """Write uint8 (H, W) or (H, W, 3) as PNG."""
        with self.writing(path) as file:
            Image.fromarray(pixels).save(file, format="PNG", compress_level=6)

    def clean(self) -> None:
        """Remove what killed runs left half written."""
        shutil.rmtree(self.stages / "tmp", ignore_errors=True)

    def open(self) -> None:
        """Make the directory.

        Raises:
            UsageError: it can't be made or written to.
        """
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            with self.writing(self.stages / "writable"):
                pass
            (self.stages / "writable").unlink()
        except OSError as error:
            raise UsageError(f"--output {str(self.root)!r} can't be written: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out of the directory (where the system has file locks)."""
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        with open(self.stages / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(f"another run is at work in {self.root}") from error
            yield


class StageLedger:
    """Which stages are whole, and with which settings each was begun."""

    def __init__(self, directory: OutputDirectory) -> None:
        self.directory = directory
        self.file = directory.stages / "settings.json"
        self.settings: dict[str, dict[str, Any]] = _read_json(self.file) or {}

    def done(self, stage: str) -> dict[str, Any] | None:
        """What the stage noted when it was whole, or None."""
        return _read_json(self.directory.stages / f"{stage}.done")

    def check(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Compare ``settings`` with those that the files of a stage were made with.

        Raises:
            UsageError: they differ; the message says where.
        """
        given = json.loads(json.dumps(settings))
        before = self.settings.get(stage)
        if before is not None and before != given and (self.directory.stages / stage).exists():
            changes = "; ".join(
                f"{key} was {_short(was)} and is {_short(now)}" for key, was, now in _differences(before, given)
            )
            raise UsageError(
                f"{self.directory.root} was made with other settings (stage {stage}): {changes}. "
                f"Use another --output, the old settings, or --redo {stage} to make that stage and those after it anew."
            )

    def begin(self, stage: str, settings: Mapping[str, Any]) -> None:
        """`check` the settings of a stage, and note them."""
        self.check(stage, settings)
        self.settings[stage] = json.loads(json.dumps(settings))
        self.directory.write_json(self.file, self.settings)

    def finish(self, stage: str, notes: Mapping[str, Any]) -> None:
        """Note that the stage is whole."""
        self.directory.write_json(self.directory.stages / f"{stage}.done", notes)

    def forget_from(self, stage: str) -> None:
        """Throw away ``stage`` and what was made after it."""
        for later in STAGES[STAGES.index(stage) :]:
            self.settings.pop(later, None)
            (self.directory.stages / f"{later}.done").unlink(missing_ok=True)
            shutil.rmtree(self.directory.stages / later, ignore_errors=True)
        self.directory.write_json(self.file, self.settings)
        shutil.rmtree(self.directory.root / "panoptic", ignore_errors=True)
        for name in ("panoptic.json", "instances.json", "run.json"):
            (self.directory.root / name).unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read ({error}); delete it, or use another --output") from error


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
    elif before != now:
        yield prefix, before, now


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
