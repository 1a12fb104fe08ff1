"""The layouts in which others store a vision transformer, brought to the names that timm uses.

Known, each found by its keys: timm; official DINO ``.pth`` (also whole checkpoints with a teacher and a student);
official DINOv2 and DINOv3 ``.pth``; Hugging Face transformers' ViT (DINO), DINOv2, DINOv2 with registers, DINOv3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]

WRAPPERS = ("teacher", "model_ema", "state_dict_ema", "model", "state_dict", "student")
"""Keys of a training checkpoint under which the weights lie, best first: DINO's teacher is what one uses."""

PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "encoder_q.", "vit.", "dinov2.", "dinov2_with_registers.")

NOT_BACKBONE = re.compile(
    r"^(head|fc|pooler|classifier|dino_head|ibot_head|projection_head|decoder|local_cls_norm)\b"
    r"|mask_token$|bias_mask$|rope_embed\.|rope_embeddings\.|relative_position_index$"
)
"""Entries that a frozen backbone has no use for."""

RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.register_tokens$|^register_tokens$|^storage_tokens$", "reg_token"),
        (r"^embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)$", r"patch_embed.proj.\1"),
        (r"^(?:encoder\.)?layer\.(\d+)\.", r"blocks.\1."),
        (r"^layernorm\.", "norm."),
        (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
        (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
        (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.|\.mlp\.up_proj\.", ".mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.|^(blocks\.\d+)\.mlp\.down_proj\.", r"\1\2.mlp.fc2."),
        (r"\.mlp\.(?:weights_in|w12)\.", ".mlp.fc1."),
        (r"\.mlp\.(?:weights_out|w3)\.", ".mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    )
)


def to_timm(checkpoint: Mapping[str, Any], names: Collection[str] = ()) -> State:
    """The tensors of ``checkpoint`` under timm's names.

    Args:
        checkpoint: what the file holds: tensors by name, maybe wrapped, prefixed, or in another layout.
        names: those that the model has. They decide between two ways in which timm stores one thing (layer scale and
            biases of DINOv3, a class token with or without its own position).
    """
    state = {_rename(name): tensor for name, tensor in _unwrap(checkpoint).items()}
    state = {name: tensor for name, tensor in state.items() if name in names or not NOT_BACKBONE.search(name)}
    state = _fuse_qkv(state)
    if "blocks.0.gamma_1" in names:
        state = _as_eva(state, names)
    return _merge_class_position(state)


def _unwrap(checkpoint: Mapping[str, Any]) -> State:
    """The first level that holds tensors, and nothing but these."""
    import torch

    for name in WRAPPERS:
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping):
            return _unwrap(inner)
    return {name: value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)}


def _rename(name: str) -> str:
    """``name`` without the prefixes of wrappers, which may stand in any order, as timm has it."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _fuse_qkv(state: State) -> State:
    """Separate query, key and value layers as one ``qkv``; a bias that only some of them have is 0 for the others."""
    import torch

    fused = {name: tensor for name, tensor in state.items() if not re.search(r"\.attn\.[qkv]\.(weight|bias)$", name)}
    for block in [name.removesuffix(".q.weight") for name in state if name.endswith(".attn.q.weight")]:
        parts = [f"{block}.{part}" for part in "qkv"]
        weights = [state[f"{part}.weight"] for part in parts if f"{part}.weight" in state]
        fused[f"{block}.qkv.weight"] = torch.cat(weights)
        if any(f"{part}.bias" in state for part in parts):
            zero = torch.zeros_like(weights[0][:, 0])
            fused[f"{block}.qkv.bias"] = torch.cat([state.get(f"{part}.bias", zero) for part in parts])
    return fused


def _as_eva(state: State, names: Collection[str]) -> State:
    """DINOv3 in the names of timm's ``Eva``: ``gamma_1``, and no bias of the key (none at all where all are 0)."""
    renamed: State = {}
    for name, tensor in state.items():
        stem = name.removesuffix("qkv.bias")
        if stem == name:
            renamed[re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)] = tensor
            continue
        # DINOv3 keeps a key bias that its mask sets to 0 (NaN in some files).
        query, _, value = tensor.nan_to_num().chunk(3)
        if f"{stem}q_bias" in names:
            renamed |= {f"{stem}q_bias": query, f"{stem}v_bias": value}
        elif query.any() or value.any():
            renamed[name] = tensor
    return renamed


def _merge_class_position(state: State) -> State:
    """Add the class token's own position to it where timm has no place for one: models with registers."""
    position = state.get("pos_embed")
    if position is None or not {"reg_token", "cls_token"} <= state.keys():
        return state
    if math.isqrt(position.shape[1] - 1) ** 2 != position.shape[1] - 1:  # the table has no row but the patches'
        return state
    return state | {"cls_token": state["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
