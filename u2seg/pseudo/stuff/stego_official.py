"""Official STEGO checkpoints: read as tensors, with everything else in them left unbuilt.

Shapes: ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes.

They are Lightning files: ``state_dict`` beside optimiser states, callbacks and a pickled OmegaConf config, which
``torch.load(weights_only=True)`` refuses as a whole. Here torch's own reader runs with an unpickler that builds tensors
and plain containers, and puts an inert stand-in wherever the file names any other class or function: nothing of it is
imported, and nothing of it is called. What is used: the head, the classes, and from the shapes of the backbone's
weights which backbone it was. What is not: the backbone's weights themselves (give the same DINO to U2SEG.FEATURES),
the linear probe, optimiser and config. So a file trained on the keys of the last block (``dino_feat_type: KK``; the
default is ``feat``) can't be told from one trained on its output.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from u2seg.errors import DataError
from u2seg.pseudo.stuff.code_checkpoint import StuffCheckpoint

if TYPE_CHECKING:
    import torch

ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
}
REBUILD = {("torch._utils", name) for name in ("_rebuild_tensor_v2", "_rebuild_parameter")}

HEAD = {
    "linear.weight": "net.cluster1.0.weight",
    "linear.bias": "net.cluster1.0.bias",
    "mlp.0.weight": "net.cluster2.0.weight",
    "mlp.0.bias": "net.cluster2.0.bias",
    "mlp.2.weight": "net.cluster2.2.weight",
    "mlp.2.bias": "net.cluster2.2.bias",
}
CENTRES = "cluster_probe.clusters"
PATCHES = "net.model.patch_embed.proj.weight"
LETTERS = {384: "s", 768: "b"}


class Inert:
    """Stands where a file names a class or function; takes anything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take ``item`` and forget it."""

    def extend(self, items: Any) -> None:
        """Take ``items`` and forget them."""


class TensorUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers, and an `Inert` for all else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """What the file may use under that name."""
        key = (module_name, global_name)
        if key in ALLOWED:
            return ALLOWED[key]
        if key in REBUILD:
            import torch

            return getattr(torch._utils, global_name)
        return type(global_name.rpartition(".")[2] or "unnamed", (Inert,), {})


def _load(file: Any, **kwargs: Any) -> Any:
    return TensorUnpickler(file).load()


READER = SimpleNamespace(Unpickler=TensorUnpickler, load=_load, __name__="u2seg_tensors_only")
"""What torch.load takes for a pickle module."""


def is_official(content: Mapping[str, Any]) -> bool:
    """Whether ``content`` has the layout of an official STEGO checkpoint."""
    state = content.get("state_dict")
    return isinstance(state, Mapping) and CENTRES in state


def read_official(path: Path) -> StuffCheckpoint:
    """The head and classes of an official STEGO ``.ckpt``.

    Raises:
        DataError: it is something else.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        if any(name.endswith(("constants.pkl", "/code/")) or "/code/" in name for name in archive.namelist()):
            raise DataError(f"{path} is a TorchScript program, not a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=READER)
    except Exception as error:  # a crafted file may end anywhere in the reader, and must end in one line
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{path} can't be read as tensors: {reason}") from error
    if not isinstance(content, Mapping) or not is_official(content):
        raise DataError(f"{path} is no checkpoint of STEGO: it has no state_dict with {CENTRES}")
    return from_state(content["state_dict"], path)


def from_state(state: Mapping[str, Any], path: Path) -> StuffCheckpoint:
    """Take the head and classes out of a Lightning ``state_dict``.

    Raises:
        DataError: it has another head than the published ones, or an unknown backbone.
    """
    import torch

    missing = [name for name in HEAD.values() if not isinstance(state.get(name), torch.Tensor)]
    if missing:
        raise DataError(f"{path} has no nonlinear head (projection_type nonlinear); {missing[0]} is missing")
    head = {ours: state[theirs].detach().float() for ours, theirs in HEAD.items()}
    return StuffCheckpoint("stego", head, state[CENTRES].detach().float(), _backbone(state, path))


def _backbone(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """``model``, ``layer`` and ``facet`` of the features, from the shapes of the backbone's weights."""
    patches = state.get(PATCHES)
    if patches is None:
        raise DataError(f"{path} does not tell its backbone: {PATCHES} is missing")
    dim, side = patches.shape[0], patches.shape[-1]
    prefix = "net.model.blocks."
    depth = len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
    if dim not in LETTERS or side not in (8, 16):
        raise DataError(f"{path} is made for a backbone of {dim} channels and patches of {side}, none of DINO's")
    return {
        "model": f"dino_vit{LETTERS[dim]}{side}",
        "layer": depth - 1,
        "facet": "block",
        "remove_key_bias": False,
    }
