"""Checkpoints of learned stuff segmenters: what they were trained on, and a way in for the official STEGO's.

Shapes: ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes.

A file is a dict that ``torch.load(weights_only=True)`` reads: ``format``, ``method``, ``extractor`` (the node ``{NAME,
ARGS}`` that built the features), ``features`` (what that extractor said of itself), ``dim``, ``code_dim``,
``num_classes``, ``head`` (state dict) and ``centres`` (S, C).
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

FORMAT = "u2seg-stuff-1"
IDENTITY = ("model", "weights_sha256", "layer", "facet", "remove_key_bias", "position_resize")
"""What must be the same in training and use. The size of the input may differ, as it does in the paper."""


@dataclass(frozen=True)
class StuffCheckpoint:
    """A head, its classes, and the features they are for."""

    method: str
    """stego, cause, ..."""
    head: dict[str, torch.Tensor]
    """State dict of `CodeHead`."""
    centres: torch.Tensor
    """float32 (S, C)"""
    features: dict[str, Any]
    """What the extractor said of itself in training; of `IDENTITY`, those that are known."""
    extractor: dict[str, Any] = field(default_factory=dict)
    """``{NAME, ARGS}`` of the extractor; empty where it is unknown."""

    @property
    def dim(self) -> int:
        """D"""
        return int(self.head["linear.weight"].shape[1])

    @property
    def code_dim(self) -> int:
        """C"""
        return int(self.head["linear.weight"].shape[0])

    @property
    def num_classes(self) -> int:
        """S"""
        return len(self.centres)

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


def write_checkpoint(path: str | Path, content: StuffCheckpoint) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises:
        UsageError: it can't be written.
    """
    import torch

    path = Path(path)
    whole = {
        "format": FORMAT,
        "method": content.method,
        "extractor": content.extractor,
        "features": content.features,
        "dim": content.dim,
        "code_dim": content.code_dim,
        "num_classes": content.num_classes,
        "head": {name: tensor.detach().cpu().float() for name, tensor in content.head.items()},
        "centres": content.centres.detach().cpu().float(),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(whole, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path} can't be written: {str(error).splitlines()[0]}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> StuffCheckpoint:
    """Read a checkpoint of this package, or an official STEGO ``.ckpt``.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged, or something else.
    """
    import torch

    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(
            f"checkpoint {str(path)!r} does not exist; tools/train_net.py with a config of configs/STEGO makes one"
        )
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no checkpoint of this package, nor an official one of STEGO (or it is damaged)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        from u2seg.pseudo.stuff.stego_official import read_official

        return read_official(path)
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise DataError(f"{path} can't be read: {' '.join(str(error).split())[:200]}") from error
    return _of_content(content, path)


def _of_content(content: Any, path: Path) -> StuffCheckpoint:
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        return StuffCheckpoint(
            content["method"], dict(content["head"]), content["centres"], content["features"], content["extractor"]
        )
    from u2seg.pseudo.stuff.stego_official import from_state, is_official

    if isinstance(content, Mapping) and is_official(content):
        return from_state(content["state_dict"], path)
    has_model = isinstance(content, Mapping) and "model" in content
    hint = "; of a training run, give its stuff_final.pth, not model_final.pth" if has_model else ""
    raise DataError(f"{path} holds no learned stuff segmenter{hint}")


def to_arrays(content: StuffCheckpoint) -> dict[str, np.ndarray]:
    """The tensors of ``content`` as arrays by name."""
    found = {f"head.{name}": tensor.numpy() for name, tensor in content.head.items()}
    return found | {"centres": content.centres.numpy()}


def head_arrays(state: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """State dict of the head out of what `to_arrays` gave."""
    import torch

    return {
        name.removeprefix("head."): torch.from_numpy(np.array(array, np.float32))
        for name, array in state.items()
        if name.startswith("head.")
    }
