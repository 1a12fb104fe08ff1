"""Checkpoints of learned stuff segmenters, which say what they were trained on.

Shapes: ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes.

A file is a dict that ``torch.load(weights_only=True)`` reads: ``format`` and the fields of `StuffCheckpoint`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, write_bytes

FORMAT = "u2seg-stuff-1"
IDENTITY = ("model", "weights_sha256", "layer", "facet", "remove_key_bias", "position_resize")
"""What must be the same in training and use. The size of the input may differ, as it does in the paper."""


@dataclass(frozen=True)
class StuffCheckpoint:
    """A head, its classes, and the features they are for."""

    method: str
    """The stuff segmenter that uses it: ``stego``, or a plugin's."""
    head: dict[str, torch.Tensor]
    """State dict of `CodeHead`; ``linear.weight`` is (C, D, 1, 1)."""
    centres: torch.Tensor
    """float32 (S, C)"""
    features: dict[str, Any]
    """What the extractor said of itself in training; of `IDENTITY`, those that are known."""
    extractor: dict[str, Any] = field(default_factory=dict)
    """``{NAME, ARGS}`` of the extractor; empty where it is unknown."""

    def check_features(self, info: Mapping[str, Any], source: str) -> None:
        """Raise UsageError unless features that ``info`` describes are those that the head was trained on."""
        differing = [
            f"{key} {info[key]!r} instead of {self.features[key]!r}"
            for key in IDENTITY
            if key in info and key in self.features and info[key] != self.features[key]
        ]
        if differing:
            raise UsageError(
                f"checkpoint {source} was trained on other features than U2SEG.FEATURES (or U2SEG.STUFF.FEATURES) "
                f"gives: {'; '.join(differing)}"
            )


def write_checkpoint(path: Path, checkpoint: StuffCheckpoint) -> None:
    """Write ``checkpoint`` to ``path``, or raise UsageError where that can't be done."""
    head = {name: tensor.detach().cpu().float() for name, tensor in checkpoint.head.items()}
    plain = replace(checkpoint, head=head, centres=checkpoint.centres.detach().cpu().float())
    content = io.BytesIO()
    torch.save({"format": FORMAT, **vars(plain)}, content)
    with in_words(path):
        write_bytes(path, content.getvalue())


def read_checkpoint(path: str | Path) -> StuffCheckpoint:
    """Read a checkpoint; only tensors and plain values are, and a file that asks for anything else is refused.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged, or something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(
            f"checkpoint {str(path)!r} does not exist; tools/train_net.py with a config of configs/STEGO makes one"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return StuffCheckpoint(**{part.name: content[part.name] for part in fields(StuffCheckpoint)})
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError) as error:
        raise DataError(
            f"{path} is no checkpoint of a learned stuff segmenter, or is damaged ({type(error).__name__}); of a "
            "training run, give its stuff_final.pth, not model_final.pth"
        ) from error
