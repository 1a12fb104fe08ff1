"""Meta-architecture STEGO: a code head on frozen features, trained without labels.

Shapes: ``B`` images; ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes; ``h, w`` feature grid;
``H, W`` pixels of a photo.

A training sample holds ``features`` and ``near_features``, float16 or float32 (D, h, w), of a crop and of one that
looks alike; or ``crop`` and ``near_crop``, uint8 (H, W, 3) RGB, which the frozen network is then run on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.functional import interpolate

from u2seg.config import plain
from u2seg.errors import UsageError, lookup
from u2seg.modeling.stego_loss import CENTRINGS, TERMS, Pair, all_pairs, correspondence_loss
from u2seg.plugins.api import FeatureExtractor
from u2seg.pseudo import parts
from u2seg.pseudo.stuff.code_checkpoint import StuffCheckpoint
from u2seg.pseudo.stuff.code_head import ClusterProbe, CodeHead, class_probabilities

Sample = dict[str, Any]


class CodeModel(nn.Module):
    """What learned stuff segmenters share: frozen features, a head, class centres, and how they become stuff.

    Args:
        extractor: the frozen network; no part of this module's state.
        extractor_node: the ``{NAME, ARGS}`` that it was built from.
        code_dim: C.
        num_classes: S.
        dropout: share of channels that training leaves out.
        device: torch device.
    """

    method = ""

    def __init__(
        self,
        *,
        extractor: FeatureExtractor,
        extractor_node: dict[str, Any],
        code_dim: int,
        num_classes: int,
        dropout: float,
        device: str,
    ) -> None:
        super().__init__()
        self._extractor = (extractor,)  # in a tuple, so that torch takes it for no part of this module
        self.extractor_node = extractor_node
        self.num_classes = num_classes
        self.head = CodeHead(extractor.dim, code_dim, dropout)
        self.probe = ClusterProbe(code_dim, num_classes)
        self._device = torch.device(device)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments that all of them take."""
        settings = plain(cfg.U2SEG)
        if settings["NUM_STUFF"] < 2 or cfg.STEGO.CODE_DIM < 1:
            raise UsageError("U2SEG.NUM_STUFF must be 2 or more, and STEGO.CODE_DIM 1 or more")
        return {
            "extractor": parts.build_extractor(settings, cfg.MODEL.DEVICE),
            "extractor_node": settings["FEATURES"],
            "code_dim": cfg.STEGO.CODE_DIM,
            "num_classes": settings["NUM_STUFF"],
            "dropout": cfg.STEGO.DROPOUT,
            "device": cfg.MODEL.DEVICE,
        }

    @property
    def extractor(self) -> FeatureExtractor:
        """The frozen network."""
        return self._extractor[0]

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.probe.centres.device

    def features_of(self, samples: list[Sample], prefix: str = "") -> torch.Tensor:
        """Features float32 (B, D, h, w) of the crops of ``samples``, or with prefix ``near_`` of those alike."""
        if f"{prefix}features" in samples[0]:
            return torch.stack([sample[f"{prefix}features"].to(self.device).float() for sample in samples])
        found = self.extractor.extract([np.ascontiguousarray(sample[f"{prefix}crop"]) for sample in samples])
        return torch.from_numpy(np.stack(found)).to(self.device)

    def export(self) -> StuffCheckpoint:
        """Head and classes, and what they are for."""
        info = getattr(self.extractor, "info", {})
        head = {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}
        return StuffCheckpoint(
            self.method, head, self.probe.centres.detach().cpu(), _plain_values(info), self.extractor_node
        )

    def forward(self, batched_inputs: list[Sample]) -> Any:
        """Losses in training; else ``sem_seg``, float32 (S, H, W) probabilities of each ``image`` (3, H, W) RGB."""
        if self.training:
            return self.losses(batched_inputs)
        return [{"sem_seg": self._infer(sample)} for sample in batched_inputs]

    def losses(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Losses of a batch by name."""
        raise NotImplementedError

    @torch.no_grad()
    def _infer(self, sample: Sample) -> torch.Tensor:
        image = sample["image"].permute(1, 2, 0).cpu().numpy()
        features = torch.from_numpy(self.extractor.extract([np.ascontiguousarray(image)])[0])[None].to(self.device)
        found = class_probabilities(self.probe(self.head(features)))
        size = sample.get("height", image.shape[0]), sample.get("width", image.shape[1])
        return interpolate(found, size=size, mode="bilinear", align_corners=False)[0]


def _plain_values(info: dict[str, Any]) -> dict[str, Any]:
    """``info`` as ``torch.load(weights_only=True)`` reads it back: strings, numbers, lists, None."""
    kinds = (str, int, float, bool, list, type(None))
    return {key: value if isinstance(value, kinds) else str(value) for key, value in info.items()}


@META_ARCH_REGISTRY.register()
class STEGO(CodeModel):
    """Codes that are alike where features are (Hamilton et al., ICLR 2022).

    Args:
        weights: of each of `TERMS`.
        shifts: b of each of `TERMS`; kept in the state, so that a resumed run goes on with those it chose.
        points: points per side of a crop that are compared.
        num_random: other images that each is compared with.
        centring: one of `CENTRINGS`.
        common: arguments of `CodeModel`.
    """

    method = "stego"
    shifts: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        weights: dict[str, float],
        shifts: dict[str, float],
        points: int,
        num_random: int,
        centring: str,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        lookup("STEGO.CENTRING", centring, dict.fromkeys(CENTRINGS))
        self.weights, self.points, self.num_random, self.centring = weights, points, num_random, centring
        self.register_buffer("shifts", torch.tensor([shifts[term] for term in TERMS], dtype=torch.float32))
        self.watched: dict[str, list[Pair]] | None = None
        """Pairs of the last step, for the plots, where someone set it to a dict."""
        self.to(self._device)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments from the trees ``STEGO`` and ``U2SEG``."""
        stego = cfg.STEGO
        return {
            **super().from_config(cfg),
            "weights": {term: stego.WEIGHTS[term.upper()] for term in TERMS},
            "shifts": {term: stego.SHIFTS[term.upper()] for term in TERMS},
            "points": stego.POINTS,
            "num_random": stego.NUM_RANDOM,
            "centring": stego.CENTRING,
        }

    def pairs(self, samples: list[Sample]) -> tuple[dict[str, list[Pair]], torch.Tensor]:
        """The pairs that the loss compares, and the codes (B, C, h, w) of the crops."""
        features = self.features_of(samples), self.features_of(samples, "near_")
        codes = self.head(features[0]), self.head(features[1])
        found = all_pairs(features, codes, side=self.points, num_random=self.num_random, centring=self.centring)
        return found, codes[0]

    def losses(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """``loss_self``, ``loss_knn``, ``loss_random`` and ``loss_cluster``."""
        found, codes = self.pairs(samples)
        if self.watched is not None:
            self.watched = found
        losses = {"loss_cluster": self.probe.loss(codes.detach())}
        for term, shift in zip(TERMS, self.shifts, strict=True):
            each = [correspondence_loss(pair, shift) for pair in found[term]]
            if each:
                losses[f"loss_{term}"] = self.weights[term] * torch.stack(each).mean()
        return losses
