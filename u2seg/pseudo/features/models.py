"""Short names of the usual backbones, which timm networks this package can run, and what they are given.

Shapes: ``H, W`` image pixels; ``h, w`` patches; ``p`` pixels per side of a patch.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from u2seg.errors import UsageError

Grid = tuple[int, int]
"""Patches, (h, w)."""


def _known() -> dict[str, str]:
    names = {}
    for letter, word in (("s", "small"), ("b", "base"), ("l", "large")):
        for patch in (16, 8) if letter != "l" else ():
            names[f"dino_vit{letter}{patch}"] = f"vit_{word}_patch{patch}_224.dino"
        names[f"dinov2_vit{letter}14"] = f"vit_{word}_patch14_dinov2.lvd142m"
        names[f"dinov2_vit{letter}14_reg"] = f"vit_{word}_patch14_reg4_dinov2.lvd142m"
        names[f"dinov3_vit{letter}16"] = f"vit_{word}_patch16_dinov3.lvd1689m"
    return names


KNOWN = _known()
"""Short name -> timm's with the tag of its weights: DINO S and B, DINOv2 S, B, L with and without registers, DINOv3."""


def timm_name(model: str) -> str:
    """timm's name of ``model``, a short name or any ViT of timm, with or without a tag.

    Raises:
        UsageError: nobody knows it; the message gives near names.
    """
    if model in KNOWN:
        return KNOWN[model]
    import timm

    if timm.is_model(model.partition(".")[0]):
        return model
    names = [*KNOWN, *timm.list_models(module="vision_transformer"), *timm.list_models(module="eva")]
    close = difflib.get_close_matches(model, names, n=3)
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    raise UsageError(f"no model named {model!r}.{hint} There are: {', '.join(KNOWN)}, and every ViT of timm.")


def build(name: str, **options: Any) -> Any:
    """timm's network ``name`` with random weights, in evaluation mode, for any input size that fits its patch.

    Raises:
        UsageError: it is no plain vision transformer.
    """
    import timm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    architecture = name.partition(".")[0]
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True, **options)
    except TypeError as error:
        raise UsageError(f"model {name!r} is no vision transformer for any input size ({error})") from error
    if not isinstance(model, (VisionTransformer, Eva)):
        raise UsageError(f"model {name!r} is a {type(model).__name__}; a plain vision transformer is needed")
    return model.eval().requires_grad_(False)


@functools.cache
def skeleton(name: str) -> Any:
    """timm's network ``name`` without memory for its weights: quick, for its shape and names alone."""
    import torch

    with torch.device("meta"):
        return build(name)


@functools.cache
def normalisation(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32 (3,) of RGB in [0, 1] that timm's ``name`` was trained with."""
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    config = timm.get_pretrained_cfg(name)
    mean, deviation = (config.mean, config.std) if config else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return np.asarray(mean, np.float32), np.asarray(deviation, np.float32)


def network_input(image: np.ndarray, grid: Grid, patch: int, name: str) -> np.ndarray:
    """Input float32 (3, h * p, w * p) of timm's ``name`` from ``image`` uint8 (H, W, 3), on a ``grid`` (h, w)."""
    from PIL import Image

    size = (grid[1] * patch, grid[0] * patch)
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    mean, deviation = (channels[:, None, None] for channels in normalisation(name))
    pixels = scaled.astype(np.float32, order="C")
    pixels /= 255
    pixels -= mean
    pixels /= deviation
    return pixels


def own_size(size: tuple[int, int], patch: int, most: Grid) -> Grid:
    """The grid of ``size`` (H, W) pixels itself, or the largest one in its shape with no more patches than ``most``."""
    grid, patches = (whole(size[0] / patch), whole(size[1] / patch)), most[0] * most[1]
    if grid[0] * grid[1] <= patches:
        return grid
    height = min(max(int(math.sqrt(patches * size[0] / size[1])), 1), patches)
    return height, min(max(int(math.sqrt(patches * size[1] / size[0])), 1), patches // height)


def whole(patches: float) -> int:
    """``patches`` rounded, at least 1."""
    return max(int(patches + 0.5), 1)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """``size`` as (height, width) pixels; UsageError unless it is a number of pixels or two of them."""
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UsageError(f"size is a number of pixels or [height, width], not {size!r}")
    return sides
