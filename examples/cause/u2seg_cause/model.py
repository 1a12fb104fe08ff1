"""Meta-architecture CAUSE: a code head that contrasts concepts (Kim, Lee, Ro: arXiv 2310.07379).

Shapes: ``B`` crops; ``D`` channels of a feature; ``C`` channels of a code; ``R`` channels that codes are projected to;
``K`` concepts; ``P`` patches of a crop; ``A`` anchors; ``J`` patches that they are compared with. The README says what
the authors' code does otherwise.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.functional import normalize

from u2seg.stego.crops import CropSet, Sample
from u2seg.stego.head import spherical_kmeans
from u2seg.stego.model import CodeModel
from u2seg_cause.loss import contrast, modularity, split_pairs

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

BOOK_CROPS, BOOK_PATCHES, BOOK_BATCH = 1500, 20_000, 8
"""Most crops that the concepts are learnt from, most patches that they start from, and crops of a step."""


@META_ARCH_REGISTRY.register()
class CAUSE(CodeModel):
    """Codes that are alike where concepts are, learnt against a slow copy of the head."""

    method = "cause"
    mean: torch.Tensor
    """float32 (D,), of the features"""
    book: torch.Tensor
    """float32 (K, D), the concepts, of unit length"""
    bank: torch.Tensor
    """float32 (K, CAUSE.BANK, R), codes of each concept from earlier batches"""
    banked: torch.Tensor
    """int64 (K,), how many codes each concept has been given"""

    def __init__(self, cfg: CfgNode) -> None:
        """Take the trees ``CAUSE``, ``STEGO`` and ``U2SEG``."""
        super().__init__(cfg)
        self.cause = cause = cfg.CAUSE
        self.projection = nn.Conv2d(cfg.STEGO.CODE_DIM, cause.PROJECTION, 1)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False).eval()
        self.slow_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(self.head.dim))
        self.register_buffer("book", normalize(torch.randn(cause.NUM_CONCEPTS, self.head.dim), dim=1))
        self.register_buffer("bank", torch.zeros(cause.NUM_CONCEPTS, cause.BANK, cause.PROJECTION))
        self.register_buffer("banked", torch.zeros(cause.NUM_CONCEPTS, dtype=torch.long))
        self.to(cfg.MODEL.DEVICE)

    def train(self, mode: bool = True) -> CAUSE:
        """As torch's; the slow head never drops channels."""
        super().train(mode)
        self.slow_head.eval()
        return self

    def prepare(self, crops: CropSet, seed: int) -> dict[str, Any]:
        """Learn the mean and the concepts: first step of the paper."""
        patches = self.draw(crops, BOOK_CROPS, seed).to(self.device).flatten(2).transpose(1, 2)  # (n, P, D)
        self.mean.copy_(patches.mean(dim=(0, 1)))
        vectors = normalize(patches - self.mean, dim=2)
        generator = torch.Generator().manual_seed(seed)
        flat = vectors.flatten(0, 1)
        sample = flat[torch.randperm(len(flat), generator=generator)[:BOOK_PATCHES]]
        book = spherical_kmeans(sample, min(len(self.book), len(sample)), seed, starts=1, steps=5)
        self.book[: len(book)] = book
        concepts = nn.Parameter(self.book.clone())
        optimizer = torch.optim.Adam([concepts], lr=self.cause.BOOK_LR)
        for _ in range(self.cause.BOOK_STEPS):
            chosen = torch.randint(len(vectors), (BOOK_BATCH,), generator=generator)
            unit = normalize(concepts, dim=1)
            loss = -torch.stack([modularity(crop, unit) for crop in vectors[chosen]]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.book.copy_(normalize(concepts.detach(), dim=1))
        return {}

    def forward(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """``loss_contrast`` and ``loss_cluster``."""
        self._follow()
        features = self.features_of(samples)
        codes = self.head(features)
        with torch.no_grad():
            slow = self._project(self.slow_projection, self.slow_head(features))  # (B, P, R)
            concept = self._concepts(features)  # (B, P)
        own_patch = self._choose_anchors(*concept.shape)
        anchors = self._project(self.projection, codes).flatten(0, 1)[own_patch].float()
        slow, concept = slow.flatten(0, 1), concept.flatten()
        banked, banked_concept = self._draw()
        others = torch.cat([slow, banked])
        closeness = (self.book[concept[own_patch]] @ self.book.T)[:, torch.cat([concept, banked_concept])]  # (A, J)
        pairs = split_pairs(closeness, own_patch, (self.cause.POSITIVE, self.cause.NEGATIVE))
        loss = contrast(anchors, others, *pairs, self.cause.TEMPERATURE)
        self._store(slow, concept)
        return {"loss_contrast": loss, "loss_cluster": self.probe.loss(codes.detach())}

    def _choose_anchors(self, crops: int, patches: int) -> torch.Tensor:
        """Patches int64 (A,) that are anchors, drawn from each of B crops of P patches, as indices of all B * P."""
        device = self.device
        chosen = [
            torch.randperm(patches, device=device)[: self.cause.ANCHORS] + crop * patches for crop in range(crops)
        ]
        return torch.cat(chosen)

    def _concepts(self, features: torch.Tensor) -> torch.Tensor:
        """Concept int64 (B, P) of each patch."""
        vectors = features.flatten(2).transpose(1, 2) - self.mean
        return (vectors @ self.book.T).argmax(dim=2)

    @staticmethod
    def _project(layer: nn.Module, codes: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, P, R) that are contrasted."""
        return normalize(layer(codes).flatten(2).transpose(1, 2).float(), dim=2)

    @torch.no_grad()
    def _follow(self) -> None:
        pairs = [(self.slow_head, self.head), (self.slow_projection, self.projection)]
        for slow, fast in pairs:
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.lerp_(new, 1 - self.cause.MOMENTUM)

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One code (J, R) of each concept that the bank has some of, and its concept (J,)."""
        present = self.banked.nonzero()[:, 0]
        size = self.banked[present].clamp(max=self.bank.shape[1])
        slot = (torch.rand(len(present), device=present.device) * size).long()
        return self.bank[present, slot], present

    @torch.no_grad()
    def _store(self, codes: torch.Tensor, concept: torch.Tensor) -> None:
        """Put one code (R,) of each concept of the batch into the bank, over the oldest."""
        present, first = _first_of_each(concept)
        self.bank[present, self.banked[present] % self.bank.shape[1]] = codes[first].to(self.bank.dtype)
        self.banked[present] += 1


def _first_of_each(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct ``values`` int64 (n,) and where each is first, after a stable sort."""
    ordered, index = values.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first], index[first]
