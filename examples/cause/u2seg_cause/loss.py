"""The two objectives of CAUSE: modularity of the concepts, and contrast of the codes. Pure functions.

Shapes: ``D`` channels of a feature; ``R`` channels that codes are projected to; ``K`` concepts; ``P`` patches of a
crop; ``A`` anchors; ``J`` patches that they are compared with.
"""

from __future__ import annotations

import torch

SHARPNESS = 0.05
"""Temperature of the softmax over concepts."""


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


def split_pairs(
    closeness: torch.Tensor, own_patch: torch.Tensor, thresholds: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positives and negatives, bool (A, J): patches whose concept is close to the anchor's, and far from it.

    Args:
        closeness: float32 (A, J), cosine of the concepts.
        own_patch: int64 (A,), which of the J patches the anchor itself is: that is no positive of its own.
        thresholds: closer than the first is positive, further than the second negative.
    """
    positive = (closeness > thresholds[0]).scatter(1, own_patch[:, None], False)
    return positive, closeness < thresholds[1]


def contrast(
    anchors: torch.Tensor, others: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean InfoNCE of an anchor's positives, each against all of its positives and negatives; 0 without positives.

    Args:
        anchors: float32 (A, R) of unit length.
        others: float32 (J, R) of unit length.
        positive: bool (A, J).
        negative: bool (A, J).
        temperature: divides the cosine.
    """
    logits = anchors @ others.T / temperature
    valid = positive.any(dim=1)
    against = logits.masked_fill(~(positive | negative | ~valid[:, None]), -torch.inf).logsumexp(dim=1, keepdim=True)
    mean = ((against - logits) * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return mean.sum() / valid.sum().clamp(min=1)
