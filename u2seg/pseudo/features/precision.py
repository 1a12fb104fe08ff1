"""The number format that a frozen network runs in.

Matrix products run in the chosen format; the residual stream, norms and position embeddings stay float32 (autocast).
On a CPU with AMX or AVX512-BF16, bfloat16 takes a third of float32's time, and features have a cosine of 0.9999 with
float32's (``docs/research/labels.md``).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from u2seg.errors import lookup

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


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
    return "bfloat16" if kind == "cpu" and _cpu_multiplies_bfloat16() else "float32"


def _cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products; without them bfloat16 is slower than float32."""
    return _cpu_has("amx_tile") or _cpu_has("avx512_bf16")


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
