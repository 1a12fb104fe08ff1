"""Meta-architecture CAUSE: a code head that contrasts concepts (Kim, Lee, Ro: arXiv 2310.07379).

Shapes: ``B`` crops; ``D`` channels of a feature; ``C`` channels of a code; ``R`` channels that codes are projected to;
``K`` concepts; ``P`` patches of a crop; ``A`` anchors; ``J`` patches that they are compared with.

Built from the paper, as its MLP variant, whose head is STEGO's. What the authors' released code does otherwise, by its
text: features are not centred, here they are by their mean over the set before they are compared with concepts (those
of DINOv2 share a large constant, and every concept would be close to every other); concepts start at random and two
patches share one by the largest tanh of a product of cosines, here they start from spherical k-means and an
assignment is a softmax; one patch of every 4 x 4 is an anchor, up to 100 codes of a concept are banked, 2,048 channels
are contrasted, and the batch and the bank have a loss each; gradients are clipped; the slow head is the one that
labels; the classes are learnt in a third step, by modularity, here by the cosine probe and k-means at the end.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.functional import normalize

from u2seg.modeling.stego import CodeModel, Sample
from u2seg.modeling.stego_shifts import spherical_kmeans

SHARPNESS = 0.05
"""Temperature of the softmax over concepts."""
BOOK_BATCH = 8


def modularity(features: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """How much better concepts group patches than chance would, a scalar below 1.

    Patches are nodes of a graph whose edges weigh the cosine, where positive; the sum goes over pairs of patches, of
    (weight - weight expected from the degrees) * (chance that both are of one concept), over the sum of weights.

    Args:
        features: float32 (P, D) of unit length.
        concepts: float32 (K, D) of unit length.
    """
    affinity = (features @ features.T).clamp(min=0)
    degree = affinity.sum(dim=1)
    total = degree.sum()
    surplus = affinity - degree[:, None] * degree[None] / total
    assigned = torch.softmax(features @ concepts.T / SHARPNESS, dim=1)
    return (surplus * (assigned @ assigned.T)).sum() / total


def contrast(
    anchors: torch.Tensor, others: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean InfoNCE of each positive against all negatives of its anchor; 0 where no anchor has both.

    Args:
        anchors: float32 (A, R) of unit length.
        others: float32 (J, R) of unit length.
        positive: bool (A, J).
        negative: bool (A, J).
        temperature: divides the cosine.
    """
    logits = anchors @ others.T / temperature
    against = logits.masked_fill(~negative, -torch.inf).logsumexp(dim=1, keepdim=True)
    valid = (positive.any(dim=1) & negative.any(dim=1)).float()
    against = torch.where(valid[:, None] > 0, against, torch.zeros_like(against))
    each = torch.logaddexp(logits, against) - logits  # (A, J)
    mean = (each * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return (mean * valid).sum() / valid.sum().clamp(min=1)


@META_ARCH_REGISTRY.register()
class CAUSE(CodeModel):
    """Codes that are alike where concepts are, learnt against a slow copy of the head.

    Args:
        num_concepts: K.
        book_steps: steps that the concepts are learnt with.
        book_lr: learning rate of that.
        thresholds: patches whose concepts are closer (cosine) than the first are positives, further than the second
            negatives.
        temperature: of the contrast.
        momentum: share of the slow head that stays in each step.
        anchors: patches of a crop that are contrasted.
        bank: codes of each concept that are kept from earlier batches.
        projection: R.
        common: arguments of `CodeModel`.
    """

    method = "cause"
    mean: torch.Tensor
    book: torch.Tensor
    bank: torch.Tensor
    banked: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        num_concepts: int,
        book_steps: int,
        book_lr: float,
        thresholds: tuple[float, float],
        temperature: float,
        momentum: float,
        anchors: int,
        bank: int,
        projection: int,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.book_steps, self.book_lr, self.thresholds = book_steps, book_lr, thresholds
        self.temperature, self.momentum, self.anchors = temperature, momentum, anchors
        self.projection = nn.Conv2d(common["code_dim"], projection, 1)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False).eval()
        self.slow_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(self.head.dim))
        self.register_buffer("book", normalize(torch.randn(num_concepts, self.head.dim), dim=1))
        self.register_buffer("bank", torch.zeros(num_concepts, bank, projection))
        self.register_buffer("banked", torch.zeros(num_concepts, dtype=torch.long))
        self.to(self._device)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments from the trees ``STEGO`` and ``U2SEG``."""
        cause = cfg.STEGO.CAUSE
        return {
            **super().from_config(cfg),
            "num_concepts": cause.NUM_CONCEPTS,
            "book_steps": cause.BOOK_STEPS,
            "book_lr": cause.BOOK_LR,
            "thresholds": (cause.POSITIVE, cause.NEGATIVE),
            "temperature": cause.TEMPERATURE,
            "momentum": cause.MOMENTUM,
            "anchors": cause.ANCHORS,
            "bank": cause.BANK,
            "projection": cause.PROJECTION,
        }

    def train(self, mode: bool = True) -> CAUSE:
        """As torch's; the slow head never drops channels."""
        super().train(mode)
        self.slow_head.eval()
        return self

    def prepare(self, features: torch.Tensor, seed: int) -> None:
        """Learn the mean and the concepts from ``features`` float32 (n, D, h, w): first step of the paper."""
        patches = features.flatten(2).transpose(1, 2)  # (n, P, D)
        self.mean.copy_(patches.mean(dim=(0, 1)))
        vectors = normalize(patches.to(self.device) - self.mean, dim=2)
        flat = vectors.reshape(-1, vectors.shape[2])
        sample = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:20_000]]
        book = spherical_kmeans(sample, min(len(self.book), len(sample)), seed, starts=1, steps=5)
        self.book[: len(book)] = book
        concepts = nn.Parameter(self.book.clone())
        optimizer = torch.optim.Adam([concepts], lr=self.book_lr)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.book_steps):
            chosen = torch.randint(len(vectors), (BOOK_BATCH,), generator=generator)
            unit = normalize(concepts, dim=1)
            loss = -torch.stack([modularity(crop, unit) for crop in vectors[chosen]]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.book.copy_(normalize(concepts.detach(), dim=1))

    def losses(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """``loss_contrast`` and ``loss_cluster``."""
        self._follow()
        features = self.features_of(samples)
        codes = self.head(features)
        with torch.no_grad():
            slow = self._project(self.slow_projection, self.slow_head(features))  # (B, P, R)
            concept = self._concepts(features)  # (B, P)
        chosen = torch.stack([torch.randperm(slow.shape[1], device=slow.device)[: self.anchors] for _ in samples])
        rows = torch.arange(len(samples), device=slow.device)[:, None]
        anchors = self._project(self.projection, codes)[rows, chosen].flatten(0, 1)
        own = concept[rows, chosen].flatten()
        banked, bank_concept = self._draw()
        others = torch.cat([slow.flatten(0, 1), banked])
        closeness = (self.book[own] @ self.book.T)[:, torch.cat([concept.flatten(), bank_concept])]  # (A, J)
        positive, negative = closeness > self.thresholds[0], closeness < self.thresholds[1]
        loss = contrast(anchors.float(), others.float(), positive, negative, self.temperature)
        self._store(slow.flatten(0, 1), concept.flatten())
        return {"loss_contrast": loss, "loss_cluster": self.probe.loss(codes.detach())}

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
                old.lerp_(new, 1 - self.momentum)

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One code (J, R) of each concept that the bank has some of, and its concept (J,)."""
        there = self.banked.nonzero()[:, 0]
        size = self.banked[there].clamp(max=self.bank.shape[1])
        slot = (torch.rand(len(there), device=there.device) * size).long()
        return self.bank[there, slot], there

    @torch.no_grad()
    def _store(self, codes: torch.Tensor, concept: torch.Tensor) -> None:
        """Put one code (R,) of each concept of the batch into the bank, over the oldest."""
        there, first = _first_of_each(concept)
        self.bank[there, self.banked[there] % self.bank.shape[1]] = codes[first].to(self.bank.dtype)
        self.banked[there] += 1


def _first_of_each(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct ``values`` int64 (n,) and where each is first, after a stable sort."""
    ordered, index = values.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first], index[first]
