"""Meta-architecture STEGO: a code head on frozen features, trained without labels.

Shapes: ``B`` crops; ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes; ``h, w`` feature grid;
``H, W`` pixels of a crop.

A training sample holds ``features`` and ``near_features``, float16 or float32 (D, h, w), of a crop and of one that
looks alike; or ``crop`` and ``near_crop``, uint8 (H, W, 3) RGB, which the frozen network is then run on.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from fvcore.common.config import CfgNode
from torch import nn

from u2seg.stego.crops import CropSet, Sample, frozen_network
from u2seg.stego.head import ClusterProbe, CodeHead, StuffCheckpoint, spherical_kmeans, whitening
from u2seg.stego.loss import TERMS, all_pairs, choose_shifts, correspondence_loss

logger = logging.getLogger(__name__)

SHIFT_CROPS, REFIT_CROPS, REFIT_PATCHES = 384, 1500, 32
"""Most crops that shifts are chosen by and that classes are fitted on, and patches of each of the latter."""


class CodeModel(nn.Module):
    """What learned stuff segmenters share in training: frozen features, a head and class centres.

    A method derives from it, sets `method` and defines ``forward``, from a list of samples to losses by name; it may
    define `prepare`. `StuffTrainer` trains it; photos are labelled by the stuff segmenter that takes its checkpoint.
    """

    method = ""
    """Name of the stuff segmenter that uses what it learns."""

    def __init__(self, cfg: CfgNode) -> None:
        """Take the trees ``U2SEG`` and ``STEGO``; a method moves itself to ``MODEL.DEVICE`` when it is complete."""
        super().__init__()
        extractor = frozen_network(cfg)
        self._extractor = (extractor,)  # in a tuple, so that torch takes it for no part of this module
        self.num_classes = cfg.U2SEG.NUM_STUFF
        self.head = CodeHead(extractor.dim, cfg.STEGO.CODE_DIM, cfg.STEGO.DROPOUT)
        self.probe = ClusterProbe(cfg.STEGO.CODE_DIM, self.num_classes)

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.probe.centres.device

    def features_of(self, samples: list[Sample], prefix: str = "") -> torch.Tensor:
        """Features float32 (B, D, h, w) of the crops of ``samples``, or with prefix ``near_`` of those alike."""
        if f"{prefix}features" in samples[0]:
            return torch.stack([sample[f"{prefix}features"].to(self.device).float() for sample in samples])
        features = self._extractor[0].extract([sample[f"{prefix}crop"] for sample in samples])
        return torch.stack([torch.from_numpy(array) for array in features]).to(self.device)

    def draw(self, crops: CropSet, count: int, seed: int, near: bool = False) -> torch.Tensor:
        """Features float32 (n, D, h, w) of at most ``count`` crops drawn by ``seed``, or of those alike."""
        places = np.sort(np.random.default_rng(seed).permutation(len(crops))[:count])
        places = crops.neighbours[places, 0] if near else places
        batches = (places[start : start + 32] for start in range(0, len(places), 32))
        return torch.cat([self.features_of([crops.sample(place) for place in batch]).cpu() for batch in batches])

    def prepare(self, crops: CropSet, seed: int) -> dict[str, Any]:
        """Before the first step, learn what the loss needs into buffers, and return records, each for a JSON file."""
        return {}

    @torch.no_grad()
    def refit(self, crops: CropSet, seed: int, whiten: float) -> None:
        """Whiten the codes by the power ``whiten``, and set the classes by spherical k-means on some of ``crops``."""
        training = self.training
        self.eval()
        features = self.draw(crops, REFIT_CROPS, seed)
        codes = torch.cat([self.head(part.to(self.device)).cpu() for part in features.split(32)])
        flat = codes.flatten(2).transpose(1, 2)  # (n, h * w, C)
        chosen = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))[:REFIT_PATCHES]
        vectors = flat[:, chosen].flatten(0, 1)
        if whiten:
            mean, axes = whitening(vectors, whiten)
            self.head.transform(mean.to(self.device), axes.to(self.device))
            vectors = (vectors - mean) @ axes
        self.probe.centres.copy_(spherical_kmeans(vectors, self.num_classes, seed))
        self.train(training)

    def export(self) -> StuffCheckpoint:
        """Head and classes, and what they are for."""
        info = getattr(self._extractor[0], "info", {})
        features = json.loads(json.dumps(info, default=str))  # plain values, which torch.load(weights_only=True) reads
        return StuffCheckpoint(self.method, self.head.state_dict(), self.probe.centres, features)


@META_ARCH_REGISTRY.register()
class STEGO(CodeModel):
    """Codes that are alike where features are (Hamilton et al., ICLR 2022)."""

    method = "stego"
    shifts: torch.Tensor  # b of each of `TERMS`; in the state, so that a resumed run keeps those that were chosen

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.stego = stego = cfg.STEGO
        self.register_buffer("shifts", torch.tensor([float(stego.SHIFTS[term.upper()]) for term in TERMS]))
        self.to(cfg.MODEL.DEVICE)

    def prepare(self, crops: CropSet, seed: int) -> dict[str, Any]:
        """Choose the shifts, if asked to."""
        if not self.stego.CHOOSE_SHIFTS:
            return {}
        features, near = (self.draw(crops, SHIFT_CROPS, seed, of_neighbours) for of_neighbours in (False, True))
        chosen = choose_shifts(features, near, self.num_classes, self.stego.POINTS, self.stego.CENTRING, seed)
        self.shifts.copy_(torch.tensor([chosen[term]["shift"] for term in TERMS]))
        logger.info("shifts chosen from the features: %s", chosen)
        return {"shifts": chosen}

    def forward(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """``loss_self``, ``loss_knn``, ``loss_random`` and ``loss_cluster``."""
        features = self.features_of(samples), self.features_of(samples, "near_")
        codes, stego = (self.head(features[0]), self.head(features[1])), self.stego
        pairs = all_pairs(features, codes, stego.POINTS, stego.NUM_RANDOM, stego.CENTRING)
        losses = {"loss_cluster": self.probe.loss(codes[0].detach())}
        for term, shift in zip(TERMS, self.shifts, strict=True):
            each = [correspondence_loss(pair, shift) for pair in pairs[term]]
            losses[f"loss_{term}"] = stego.WEIGHTS[term.upper()] * torch.stack(each).mean()
        return losses
