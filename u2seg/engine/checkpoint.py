"""Checkpoints: written whole or not at all, read safely, refused in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from u2seg.engine.weights import class_counts, local_file, read_checkpoint
from u2seg.errors import DataError, UsageError


class U2SegCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the URIs of `u2seg.engine.weights` and errors that a user can act on."""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model, and the named ``checkpointables`` (all if None), from a file or URI; "" loads nothing.

        Raises:
            UsageError: there is no such file.
            DataError: it is damaged, made for other class counts, or for another model altogether.
        """
        self._source = path
        if not path:
            return super().load(path, checkpointables)
        try:
            return super().load(str(local_file(path)), checkpointables)
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        own = self.model.state_dict()
        self._check_counts(class_counts(checkpoint["model"]), class_counts(own))
        if not checkpoint.get("matching_heuristics") and not own.keys() & checkpoint["model"].keys():
            some = ", ".join(list(checkpoint["model"])[:3])
            raise DataError(f"weights {self._source!r} have no tensor that this model has; theirs begin with {some}")
        return super()._load_model(checkpoint)

    def _check_counts(self, theirs: tuple[int, int], ours: tuple[int, int]) -> None:
        for count, wanted, what in zip(theirs, ours, ("thing classes", "semantic classes"), strict=True):
            if count and wanted and count != wanted:
                raise DataError(
                    f"weights {self._source!r} are made for {count} {what}, but the model has {wanted}, "
                    f"as its dataset or config says"
                )

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth`` beside its final place and rename it, then point ``last_checkpoint`` at it.

        Raises:
            UsageError: it can't be written; what was there before is still whole.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        with _replacing(file) as temporary:
            torch.save(content | kwargs, temporary)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of this directory."""
        with _replacing(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename, encoding="utf-8")


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A temporary path that becomes ``file`` when the block ends well."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{file} can't be written: {reason}; earlier checkpoints are whole") from error
    finally:
        # where the disk is the trouble this fails too, and must not stand in for what went wrong first
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
