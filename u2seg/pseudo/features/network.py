"""One pass through a frozen vision transformer: up to the last block that is asked for, in the quickest number format.

Matrix products run in the chosen format; the residual stream, norms and position embeddings stay float32 (autocast).
On a CPU with AMX or AVX512-BF16, bfloat16 takes a third of float32's time, and features have a cosine of 0.9999 with
float32's (``docs/research/labels.md``).

Shapes: ``B`` images of one size; ``H, W`` pixels of the network's input; ``h, w`` patches; ``D`` channels of a token;
``R`` class and register tokens before the patches; ``n`` = R + h * w tokens; ``A`` channels of a key (mostly D).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from u2seg.errors import UsageError, lookup

if TYPE_CHECKING:
    import torch
    from torch import nn

FACETS = ("block", "query", "key", "value")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


class Request(NamedTuple):
    """Which features of a network."""

    layer: int
    """Index of the block, 0 to depth - 1."""
    facet: str
    """One of `FACETS`."""
    remove_key_bias: bool = False
    """Leave out the constant that the projection adds to every key. Softmax does not see it."""


def run(model: Any, pixels: torch.Tensor, requests: Sequence[Request]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Features of some blocks of ``model``, timm's ``VisionTransformer`` or ``Eva``, in one pass.

    Position embeddings of another grid are resized as timm does (bicubic, antialiased); the code of DINO and DINOv2
    does not antialias, which changes some masks. The output of the last block goes through the network's final norm, as
    timm's own output does; outputs of earlier blocks are as they are. Keys, queries and values are what the block's
    projection makes of its normalised input: before any rotation (RoPE) and any norm of queries and keys.

    Args:
        model: the network.
        pixels: float32 (B, 3, H, W), normalised; H and W are multiples of the patch.
        requests: what is asked for.

    Returns:
        For each request, patches float32 (B, D or A, h, w), and the tokens before them float32 (B, R, D or A).
    """
    from torch.nn.functional import linear

    patches = model.patch_embed(pixels)  # (B, h, w, D)
    size = (patches.shape[1], patches.shape[2])
    embedded = model._pos_embed(patches)
    tokens, rotation = embedded if isinstance(embedded, tuple) else (embedded, None)
    tokens = model.norm_pre(tokens)
    results: dict[Request, tuple[torch.Tensor, torch.Tensor]] = {}
    for index in range(max(request.layer for request in requests) + 1):
        block = model.blocks[index]
        of_block = [request for request in requests if request.layer == index]
        for request in (request for request in of_block if request.facet != "block"):
            weight, bias = projection(block, request.facet)
            bias = None if request.facet == "key" and request.remove_key_bias else bias
            results[request] = _split(model, linear(block.norm1(tokens), weight, bias), size)
        if len(results) == len(set(requests)):
            break
        if rotation is None:
            tokens = block(tokens)
        else:
            tokens = block(tokens, rope=rotation[index] if getattr(model, "rope_mixed", False) else rotation)
        for request in (request for request in of_block if request.facet == "block"):
            is_last = index + 1 == len(model.blocks)
            results[request] = _split(model, model.norm(tokens) if is_last else tokens, size)
    return [results[request] for request in requests]


def _split(model: Any, tokens: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (B, D, h, w) and the tokens before them (B, R, D) of ``tokens`` (B, n, D)."""
    prefix = model.num_prefix_tokens
    return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, *size), tokens[:, :prefix]


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
    letter, place = facet[0], FACETS.index(facet) - 1
    if getattr(attention, "qkv", None) is None:
        layer = getattr(attention, f"{letter}_proj")
        return layer.weight, layer.bias
    weight, bias = attention.qkv.weight.chunk(3)[place], attention.qkv.bias
    # Eva keeps biases beside a fused layer, and has none for the key.
    return weight, getattr(attention, f"{letter}_bias", None) if bias is None else bias.chunk(3)[place]


def resolve_precision(precision: str, device: str) -> str:
    """``precision``, one of `PRECISIONS`, for torch's ``device``; "auto" becomes what the hardware multiplies fastest.

    Raises:
        UsageError: there is no such precision.
    """
    import torch

    lookup("precision", precision, dict.fromkeys(PRECISIONS))
    if precision != "auto":
        return precision
    kind = device.partition(":")[0]
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    # Without instructions for its products bfloat16 is slower than float32.
    return "bfloat16" if kind == "cpu" and (_cpu_has("amx_tile") or _cpu_has("avx512_bf16")) else "float32"


def _cpu_has(instructions: str) -> bool:
    import torch

    # torch has no public question for this yet; a build that lacks these has no fast path either.
    return getattr(torch.cpu, f"_is_{instructions}_supported", bool)()


def to_precision(network: nn.Module, precision: str, device: str) -> nn.Module:
    """``network`` with the weights of its products in ``precision`` (resolved), in place: autocast casts none anew.

    Scales of its layers go into these weights: as products of their own they take a tenth of the time of a crop.
    Where it is to run in bfloat16 on a CPU without AMX, timm's blocks take attention as two products and a softmax:
    torch's flash attention makes its small products by a slower library there (``docs/research/labels.md``).
    """
    import torch
    from torch import nn

    if precision == "float32":
        return network
    in_steps = precision == "bfloat16" and device.startswith("cpu") and not _cpu_has("amx_tile")
    for module in list(network.modules()):
        _fold_scales(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(getattr(torch, precision))
        if in_steps and hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]  # torch types every attribute as a module
    return network


def _fold_scales(block: nn.Module) -> None:
    """Multiply what LayerScale multiplies the outputs of ``block`` by into the weights that make them, in place.

    For timm's plain blocks, whose weights are still float32; any other module stays as it is.
    """
    import torch
    from timm.layers import LayerScale
    from timm.models.vision_transformer import Block
    from torch import nn

    if type(block) is not Block:
        return
    with torch.no_grad():
        for name, layer in (("ls1", block.attn.proj), ("ls2", getattr(block.mlp, "fc2", None))):
            scale = getattr(block, name)
            if isinstance(scale, LayerScale) and isinstance(layer, nn.Linear):
                layer.weight.mul_(scale.gamma[:, None])
                if layer.bias is not None:
                    layer.bias.mul_(scale.gamma)
                setattr(block, name, nn.Identity())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Context in which products run in ``precision`` (resolved)."""
    import torch

    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
