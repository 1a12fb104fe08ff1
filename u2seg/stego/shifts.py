"""Shifts of STEGO's loss from the features themselves, without labels.

Shapes: ``n`` crops that are looked at; ``P`` points of a crop; ``S`` classes; ``D`` channels of a feature.

The shift b of a term decides which of its pairs of points attract (F > b) and which repel. With b far below the mean of
F a photo's codes fall into one; far above, they scatter. So within a crop and with its neighbour b is the mean of F,
where both forces balance. Random pairs are there to keep classes apart: only the share that belongs together should
attract, and raw features grouped into S clusters by spherical k-means tell it without labels: how often both points of
a pair fall into one cluster. b of that term is the quantile of F that leaves that share above it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from u2seg.stego.head import spherical_kmeans
from u2seg.stego.loss import TERMS, centre, cosines, other_image, random_points, sample

MOST_VALUES, MOST_POINTS = 2_000_000, 20_000


def choose_shifts(
    features: torch.Tensor, near: torch.Tensor, num_classes: int, side: int, centring: str, seed: int
) -> dict[str, dict[str, float]]:
    """Shift of each term, and what it does.

    Args:
        features: float32 (n, D, h, w) of some crops.
        near: the same of one neighbour of each.
        num_classes: S.
        side: points per side of a crop, as in training.
        centring: as in training.
        seed: of the points and of k-means.

    Returns:
        For each of `TERMS` ``{"shift": b, "attract": share of pairs above b, "same": share that is of one cluster}``.
    """
    count, device = len(features), features.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = random_points(count, side, device), random_points(count, side, device)
        other = other_image(count, device)
    left = sample(features, first)
    rights = (left, sample(near, second), sample(features[other], second))
    points = left.flatten(2).transpose(1, 2).flatten(0, 1)
    centres = spherical_kmeans(points[:: max(1, len(points) // MOST_POINTS)], num_classes, seed)
    shifts = {}
    for term, right in zip(TERMS, rights, strict=True):
        cluster, other_cluster = (
            torch.einsum("ndp,sd->nps", normalize(part.flatten(2), dim=1), centres).argmax(dim=2)
            for part in (left, right)
        )
        same = float((cluster[:, :, None] == other_cluster[:, None, :]).float().mean())
        every = centre(cosines(left, right), centring).flatten()
        values = every[:: max(1, len(every) // MOST_VALUES)].cpu().numpy()
        shift = float(np.quantile(values, 1 - same) if term == "random" else values.mean(dtype=np.float64))
        shifts[term] = {"shift": shift, "attract": float((values > shift).mean()), "same": same}
    return shifts
