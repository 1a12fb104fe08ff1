"""Official STEGO checkpoints: read as tensors, with everything else in them left unbuilt.

Shapes: ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes.

They are Lightning files: ``state_dict`` beside optimiser states, callbacks and a pickled OmegaConf config, which
``torch.load(weights_only=True)`` refuses as a whole. Here torch's own reader runs with an unpickler that builds tensors
and plain containers, and puts an inert stand-in wherever the file names any other class or function: nothing of it is
imported, and nothing of it is called. Used are the head, the classes, and the shapes of the backbone's weights.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from u2seg.errors import DataError

REBUILD = ("_rebuild_tensor_v2", "_rebuild_parameter")
"""Functions of torch._utils that make a tensor of a storage that torch itself has read."""

LAYERS = {"linear": "net.cluster1.0", "mlp.0": "net.cluster2.0", "mlp.2": "net.cluster2.2"}
HEAD = {f"{layer}.{kind}": f"{LAYERS[layer]}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
"""Tensors of `CodeHead` and their names in the official code."""
CENTRES = "cluster_probe.clusters"
PATCHES = "net.model.patch_embed.proj.weight"
BLOCKS = "net.model.blocks."
LETTERS = {384: "s", 768: "b"}


class Inert:
    """Stands where a file names a class or function; takes anything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """What unpickling calls to make or fill an object."""

    __init__ = __setstate__ = __setitem__ = append = extend = _ignore  # type: ignore[assignment]


class TensorUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers, and an `Inert` for all else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """What the file may use under that name."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module_name == "torch._utils" and global_name in REBUILD:
            return getattr(torch._utils, global_name)
        return type(global_name.rpartition(".")[2] or "unnamed", (Inert,), {})


READER = SimpleNamespace(Unpickler=TensorUnpickler, load=lambda file, **kwargs: TensorUnpickler(file).load())
"""What torch.load takes for a pickle module."""
READER.__name__ = "u2seg_tensors_only"


def read_unsafe(path: Path) -> Any:
    """The content of a file that ``torch.load(weights_only=True)`` refuses, with an `Inert` for what is no tensor.

    Raises:
        DataError: it is a program, or can't be read.
    """
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("constants.pkl") or "/code/" in name for name in archive.namelist()):
            raise DataError(f"{path} is a TorchScript program, not a checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=READER)
    except Exception as error:  # a crafted file may end anywhere in the reader, and must end in one line
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{path} can't be read as tensors: {reason}") from error


def official_head(state: Any, path: Path) -> dict[str, Any] | None:
    """``head``, ``centres`` and ``features`` of a `StuffCheckpoint`; None where ``state`` is not laid out as STEGO's.

    Raises:
        DataError: it has another head than the published ones, or an unknown backbone.
    """
    if not isinstance(state, Mapping) or CENTRES not in state:
        return None
    tensors = {str(name): value.detach().float() for name, value in state.items() if isinstance(value, torch.Tensor)}
    for name in (CENTRES, *HEAD.values()):
        if name not in tensors:
            raise DataError(f"{path} has no nonlinear head (projection_type nonlinear); {name} is missing")
    if PATCHES not in tensors:
        raise DataError(f"{path} does not tell its backbone: {PATCHES} is missing")
    dim, side = tensors[PATCHES].shape[0], tensors[PATCHES].shape[-1]
    if dim not in LETTERS or side not in (8, 16):
        raise DataError(f"{path} is made for a backbone of {dim} channels and patches of {side}, none of DINO's")
    depth = len({name.removeprefix(BLOCKS).split(".")[0] for name in tensors if name.startswith(BLOCKS)})
    model = f"dino_vit{LETTERS[dim]}{side}"
    return {
        "head": {name: tensors[official] for name, official in HEAD.items()},
        "centres": tensors[CENTRES],
        "features": {"model": model, "layer": depth - 1, "facet": "block", "remove_key_bias": False},
    }
