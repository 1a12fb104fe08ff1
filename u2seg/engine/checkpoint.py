"""Checkpoints: written whole or not at all, read safely, refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from u2seg.engine.weights import class_counts, local_file, read_checkpoint
from u2seg.errors import DataError
from u2seg.files import in_words, replacing

LAST = "last_checkpoint"
"""File of an output directory that names its newest checkpoint."""


def last_checkpoint(directory: str | Path) -> str:
    """Path of the newest checkpoint of ``directory``, or "" where there is none."""
    file = Path(directory) / LAST
    return str(file.with_name(file.read_text(encoding="utf-8").strip())) if file.is_file() else ""


class U2SegCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the URIs of `u2seg.engine.weights` and errors that a user can act on."""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model, and the named ``checkpointables`` (all if None), from a file or URI; "" loads nothing.

        Raises:
            UsageError: there is no such file.
            DataError: it is damaged, made for other class counts, or for another model altogether.
        """
        return super().load(str(local_file(path)) if path else path, checkpointables)

    def load_trained(self, path: str) -> None:
        """Load the model from ``path``, which must have every tensor of it.

        Raises:
            DataError: one is missing or of another shape; or as `load`.
        """
        incompatible = self._load_model(self._load_file(str(local_file(path))))
        misshapen = [key for key, *_ in incompatible.incorrect_shapes]
        unfit = [*incompatible.missing_keys, *misshapen]
        if unfit:
            what = "is of another shape" if unfit[0] in misshapen else "is missing"
            raise DataError(
                f"weights {path!r} are no trained model of this config: {unfit[0]} {what} "
                f"({len(unfit)} of {len(self.model.state_dict())} tensors do not fit)"
            )
        self._log_incompatible_keys(incompatible)

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename)
        state, own = checkpoint["model"], self.model.state_dict()
        kinds = ("thing classes", "semantic classes")
        for count, expected, kind in zip(class_counts(state), class_counts(own), kinds, strict=True):
            if count and expected and count != expected:
                raise DataError(
                    f"weights {filename!r} are made for {count} {kind}, but the model has {expected}, as its dataset "
                    "or config says"
                )
        if not checkpoint.get("matching_heuristics") and not own.keys() & state.keys():
            some = ", ".join(list(state)[:3])
            raise DataError(f"weights {filename!r} have no tensor that this model has; theirs begin with {some}")
        return checkpoint

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth``, whole or not at all, then point ``last_checkpoint`` at it.

        Raises:
            UsageError: it can't be written; what was there before is still whole.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        with in_words(file, "; earlier checkpoints are whole"), replacing(file) as temporary:
            try:
                torch.save(content | kwargs, temporary)
            except RuntimeError as error:  # so torch reports a disk that is full
                raise OSError(str(error).splitlines()[0]) from error
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of this directory."""
        file = Path(self.save_dir) / LAST
        with in_words(file, "; earlier checkpoints are whole"), replacing(file) as temporary:
            temporary.write_text(last_filename_basename, encoding="utf-8")
