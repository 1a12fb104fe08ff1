"""The vision transformer that made the labels, as Detectron2's backbones see it: frozen, or tuned with the rest.

A frozen trunk is no part of the model's state: a checkpoint holds its fingerprint instead, and loading one that was
trained on another trunk is refused.

Shapes: ``B`` images; ``H, W`` pixels of the padded batch; ``h, w`` patches; ``p`` pixels per side of a patch; ``D``
channels of a block's features; ``n`` blocks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import nn
from torch.nn import functional as F  # noqa: N812

from u2seg.errors import DataError, UsageError
from u2seg.pseudo.features import models, weights
from u2seg.pseudo.features.network import Request, autocast, run, to_precision
from u2seg.pseudo.features.vit import ViTFeatures

logger = logging.getLogger(__name__)

FEATURE = "vit"
"""Name of the only output of a `Trunk`."""


class ViTBlocks(nn.Module):
    """Features of some blocks of a ViT, each of unit variance over its channels, side by side."""

    def __init__(self, extractor: ViTFeatures, blocks: Sequence[int] = ()) -> None:
        """Load the network.

        Args:
            extractor: says which network, weights and facet.
            blocks: indices of blocks, negative from the end; none stands for the extractor's own.

        Raises:
            UsageError: the network has no such block, or its weights can't be had.
            DataError: the weights do not fit the network.
        """
        super().__init__()
        self.network: Any
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        located = weights.locate(extractor.weights)
        if located.caveat:
            logger.warning("%s", located.caveat)
        self.network = weights.load(extractor.timm_name, located)
        depth = len(self.network.blocks)
        for block in (blocks := list(blocks) or extractor.layers):
            if not -depth <= block < depth:
                raise UsageError(f"block {block}: {extractor.model} has blocks 0 to {depth - 1} (or -{depth} to -1)")
        facet = extractor.facet
        self.requests = [Request(block % depth, facet, extractor.remove_key_bias) for block in blocks]
        self.dim, self.stride = extractor.block_dim * len(blocks), extractor.stride
        self.settings = f"{extractor.timm_name} {[tuple(request) for request in self.requests]}"
        """What decides about the features beside the weights."""
        for name, values in zip(("mean", "deviation"), models.normalisation(extractor.timm_name), strict=True):
            self.register_buffer(name, torch.from_numpy(values)[:, None, None], persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features float32 (B, n * D, h, w) of ``pixels`` float32 (B, 3, h * p, w * p), RGB in [0, 1]."""
        outputs = run(self.network, (pixels - self.mean) / self.deviation, self.requests)
        columns = [patches.permute(0, 2, 3, 1) for patches, _ in outputs]  # (B, h, w, D)
        return torch.cat([F.layer_norm(x, x.shape[-1:]) for x in columns], dim=-1).permute(0, 3, 1, 2)

    def leave_unused_fixed(self) -> None:
        """Let only those parameters learn that the features depend on."""
        last = max(request.layer for request in self.requests)
        whole = last if self.requests[0].facet == "block" else last - 1  # of the last one, a key needs norm1 and qkv
        for index, block in enumerate(self.network.blocks):
            block.requires_grad_(index <= whole)
            if whole < index <= last:
                for name, parameter in block.named_parameters():
                    parameter.requires_grad_(name.startswith(("norm1.", "attn.qkv.", "attn.q_", "attn.k_", "attn.v_")))
        self.network.norm.requires_grad_(whole == len(self.network.blocks) - 1)


class Trunk(Backbone):
    """A network that gives features on a grid of patches, each of which stands for a square of the image.

    The network is a module with ``dim`` (channels of its features) and ``stride`` (pixels of its input per cell), and
    takes float32 (B, 3, h * stride, w * stride), RGB in [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        stride: int,
        frozen: bool,
        precision: str,
        device: str,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        image_format: str = "RGB",
    ) -> None:
        """Wrap ``network``.

        Args:
            network: see the class.
            stride: pixels of the image that a cell stands for.
            frozen: whether the network stays as it is.
            precision: of a frozen network's products, resolved (`u2seg.pseudo.features.network`).
            device: that it will run on.
            pixel_mean: what Detectron2 took from the image's channels, 0..255.
            pixel_std: what it divided by then.
            image_format: order of the channels, "RGB" or "BGR".
        """
        super().__init__()
        self._out_features = [FEATURE]
        self._out_feature_channels, self._out_feature_strides = {FEATURE: network.dim}, {FEATURE: stride}
        self.patch = int(network.stride)  # type: ignore[arg-type]  # torch types every attribute as a module
        self.stride, self.frozen, self.precision = stride, frozen, precision
        self.flips_channels = image_format == "BGR"
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None] / 255, persistent=False)
        if frozen:
            self.register_buffer("fingerprint", fingerprint(network))
            network = to_precision(network.eval().requires_grad_(False), precision, device)
            self._unregistered = (network,)  # in a tuple, torch does not take it for a part of the model
        else:
            self.network = network.requires_grad_(True)
            getattr(network, "leave_unused_fixed", lambda: None)()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features float32 (B, D, h, w) of ``images`` float32 (B, 3, H, W) as Detectron2 normalises them.

        H and W are multiples of the stride.
        """
        pixels = images * self.pixel_std + self.pixel_mean
        pixels = pixels.flip(1) if self.flips_channels else pixels
        size = [side // self.stride * self.patch for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)
        if not self.frozen:
            return {FEATURE: self.network(pixels)}
        # not inference_mode: what the neck learns from needs to be kept for its gradient
        with torch.no_grad(), autocast(images.device, self.precision):
            return {FEATURE: self._unregistered[0](pixels).float()}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Trunk:
        """Move the frozen network with the rest."""
        super()._apply(fn, recurse)
        for network in self.__dict__.get("_unregistered", ()):
            network._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse, by a DataError, a state that was trained on another frozen trunk."""
        theirs = state_dict.get(f"{prefix}fingerprint")
        if self.frozen and theirs is not None and not torch.equal(theirs.cpu(), self.fingerprint.cpu()):
            raise DataError(
                f"the weights were trained on another frozen backbone (fingerprint {_hex(theirs)}) than the one of "
                f"U2SEG.FEATURES and MODEL.VIT.BLOCKS ({_hex(self.fingerprint)}); name the network, weights and "
                "blocks that they were trained on"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def fingerprint(network: nn.Module) -> torch.Tensor:
    """sha256 of the tensors and settings of ``network``, uint8 (32,): the same from whichever file they came."""
    digest = hashlib.sha256(str(getattr(network, "settings", "")).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _hex(sha256: torch.Tensor) -> str:
    return bytes(sha256.tolist()).hex()[:12]
