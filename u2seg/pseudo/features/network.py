"""One pass through a vision transformer, up to the block that is asked for and no further.

Shapes: ``B`` images of one size; ``H, W`` pixels of the network's input; ``h, w`` patches; ``D`` channels of a token;
``R`` class and register tokens before the patches; ``n`` = R + h * w tokens; ``A`` channels of a key (mostly D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from u2seg.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

FACETS = ("block", "key", "query", "value")
POSITION_RESIZES = ("timm", "dinov2")

_PART = {"query": 0, "key": 1, "value": 2}
_OFFSET = 0.1
"""What DINO and DINOv2 add to the new side before they divide by the old one (against rounding, as their code says)."""


class Shape(NamedTuple):
    """What is known of a network without its weights."""

    dim: int
    """D"""
    facet_dim: int
    """D or A, channels of the facet that was asked about."""
    patch: int
    """Pixels per side of a patch."""
    depth: int
    """Number of blocks."""
    has_class_token: bool


def shape_of(model: Any, facet: str) -> Shape:
    """The shape of ``model`` and of its ``facet``, one of `FACETS`."""
    dim = model.embed_dim
    facet_dim = dim if facet == "block" else len(projection(model.blocks[0], facet)[0])
    return Shape(dim, facet_dim, model.patch_embed.patch_size[0], len(model.blocks), model.cls_token is not None)


def run(
    model: Any, pixels: torch.Tensor, layer: int, facet: str, remove_key_bias: bool, position_resize: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of one block of ``model``, timm's ``VisionTransformer`` or ``Eva``.

    Args:
        model: the network.
        pixels: float32 (B, 3, H, W), normalised; H and W are multiples of the patch.
        layer: index of the block, 0 to depth - 1.
        facet: one of `FACETS`. The output of the last block goes through the network's final norm, as timm's own output
            does; outputs of earlier blocks are as they are. Keys, queries and values are what the block's projection
            makes of its normalised input: before any rotation (RoPE) and any norm of queries and keys.
        remove_key_bias: leave out the constant that the projection adds to every key. Softmax does not see it.
        position_resize: one of `POSITION_RESIZES`, see `resize_positions`.

    Returns:
        Patches float32 (B, D or A, h, w), and the tokens before them float32 (B, R, D or A).
    """
    tokens, rotation, (height, width) = _embed(model, pixels, position_resize)
    last = layer if facet != "block" else layer + 1
    for index, block in enumerate(model.blocks[:last]):
        tokens = block(tokens) if rotation is None else block(tokens, rope=_of_block(model, rotation, index))
    if facet != "block":
        block = model.blocks[layer]
        weight, bias = projection(block, facet)
        tokens = _linear(block.norm1(tokens), weight, None if facet == "key" and remove_key_bias else bias)
    elif last == len(model.blocks):
        tokens = model.norm(tokens)
    prefix = model.num_prefix_tokens
    grid = tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, height, width)
    return grid, tokens[:, :prefix]


def projection(block: nn.Module, facet: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (A, D) and bias (A,), or None, that make the keys, queries or values of ``block``.

    Raises:
        UsageError: the block is none whose attention reads ``norm1`` of its input.
    """
    from timm.models.eva import EvaBlock
    from timm.models.vision_transformer import Block

    if type(block) not in (Block, EvaBlock):
        raise UsageError(f"facet {facet!r}: a {type(block).__name__} does not show its {facet}; use facet 'block'")
    attention: Any = block.attn
    if getattr(attention, "qkv", None) is None:
        layer = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}[facet]
        return getattr(attention, layer).weight, getattr(attention, layer).bias
    weight = attention.qkv.weight.chunk(3)[_PART[facet]]
    if attention.qkv.bias is not None:
        return weight, attention.qkv.bias.chunk(3)[_PART[facet]]
    # Eva keeps biases beside a fused layer, and has none for the key.
    return weight, getattr(attention, {"query": "q_bias", "key": "k_bias", "value": "v_bias"}[facet], None)


def _linear(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    from torch.nn.functional import linear

    return linear(tokens, weight, bias)


def _of_block(model: Any, rotation: torch.Tensor, index: int) -> torch.Tensor:
    return rotation[index] if getattr(model, "rope_mixed", False) else rotation


def _embed(
    model: Any, pixels: torch.Tensor, position_resize: str
) -> tuple[torch.Tensor, torch.Tensor | None, tuple[int, int]]:
    """Tokens (B, n, D) that enter the first block, the rotation of each patch if any, and (h, w)."""
    import torch

    patches = model.patch_embed(pixels)  # (B, h, w, D)
    size = (patches.shape[1], patches.shape[2])
    tokens = patches.flatten(1, 2)
    before = [t.expand(len(tokens), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    if not prefix:
        tokens = tokens + _positions(model, size, 0, position_resize)
    tokens = torch.cat([*before, tokens], dim=1)
    if prefix:
        tokens = tokens + _positions(model, size, prefix, position_resize)
    rope = getattr(model, "rope", None)
    return model.norm_pre(tokens), None if rope is None else rope.get_embed(shape=size), size


def _positions(model: Any, size: tuple[int, int], prefix: int, how: str) -> torch.Tensor | float:
    if model.pos_embed is None:
        return 0.0
    return resize_positions(model.pos_embed, tuple(model.patch_embed.grid_size), size, prefix, how)


def resize_positions(
    table: torch.Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int, how: str
) -> torch.Tensor:
    """Position embeddings for another grid.

    Args:
        table: float32 (1, prefix + old_h * old_w, D).
        old: patches (h, w) that the table was learnt on.
        new: patches (h, w) that are needed. Where they equal ``old`` the table comes back as it is.
        prefix: rows of the table that belong to no patch.
        how: ``timm``: bicubic with antialias, corners of the grids aligned; also what DINOv2 with registers does.
            ``dinov2``: bicubic without antialias, at the scale (new + 0.1) / old, as the code of DINO and DINOv2.

    Returns:
        float32 (1, prefix + new_h * new_w, D).
    """
    import torch
    from torch.nn.functional import interpolate

    if tuple(new) == tuple(old):
        return table
    grid = table[:, prefix:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    if how == "timm":
        grid = interpolate(grid, size=new, mode="bicubic", antialias=True)
    else:
        scale = tuple((after + _OFFSET) / before for after, before in zip(new, old, strict=True))
        grid = interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([table[:, :prefix], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
