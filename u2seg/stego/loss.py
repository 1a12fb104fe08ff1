"""The correspondence loss of STEGO (ICLR 2022).

Shapes: ``B`` images; ``D`` channels of a feature; ``C`` channels of a code; ``h, w`` feature grid; ``n`` x ``n`` points
that are sampled in an image; ``P`` = n * n; ``S`` classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import grid_sample, normalize

from u2seg.stego.head import spherical_kmeans

TERMS = ("self", "knn", "random")
"""An image with itself, with one that looks alike, and with any other."""
MOST_VALUES, MOST_POINTS = 2_000_000, 20_000
"""Cosines that quantiles are taken of, and points that are clustered, where shifts are chosen."""


Pair = tuple[torch.Tensor, torch.Tensor]
"""What a term compares for each pair of images: F of the paper, the centred cosine of features, and S, the cosine of
codes, not yet clamped; both float32 (B, P, P)."""


def random_points(batch: int, side: int, device: torch.device) -> torch.Tensor:
    """Places float32 (B, n, n, 2) in [-1, 1], drawn evenly, as `sample` takes them."""
    return torch.rand(batch, side, side, 2, device=device) * 2 - 1


def sample(grid: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Values float32 (B, D, n, n) of ``grid`` (B, D, h, w) at ``points`` (B, n, n, 2), bilinear.

    -1 and 1 are the centres of the outermost cells, as in the official code, so every point lies between four cells.
    """
    return grid_sample(grid.float(), points, padding_mode="border", align_corners=True)


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Cosine float32 (B, P, P) of every point of ``left`` with every one of ``right``, both (B, D, n, n)."""
    a, b = (normalize(side.float().flatten(2), dim=1) for side in (left, right))
    return torch.einsum("bdp,bdq->bpq", a, b)


def centre(correspondence: torch.Tensor, centring: str) -> torch.Tensor:
    """Spatial centring of F (B, P, P): it keeps small objects from being lost among what all points share.

    ``row`` takes from each point its mean cosine with all points of the other image, as the paper writes it;
    ``row_keep_mean`` then adds the mean of the whole batch, so that terms whose images have little in common stay
    lower, which is what the official code does and its shifts were chosen with.
    """
    centred = correspondence - correspondence.mean(dim=2, keepdim=True)
    return centred + correspondence.mean() if centring == "row_keep_mean" else centred


def correspondence_loss(pair: Pair, shift: torch.Tensor | float) -> torch.Tensor:
    """Mean of -(F - b) * max(S, 0) over all points and pairs; ``shift`` is b."""
    features, codes = pair
    return -((features - shift) * codes.clamp(min=0)).mean()


def other_image(batch: int, device: torch.device) -> torch.Tensor:
    """For each image of a batch some other one, int64 (B,); with one image alone, itself."""
    if batch < 2:
        return torch.zeros(batch, dtype=torch.long, device=device)
    step = torch.randint(1, batch, (batch,), device=device)
    return (torch.arange(batch, device=device) + step) % batch


def all_pairs(
    features: tuple[torch.Tensor, torch.Tensor],
    codes: tuple[torch.Tensor, torch.Tensor],
    side: int,
    num_random: int,
    centring: str,
) -> dict[str, list[Pair]]:
    """The pairs of all three terms; no gradient flows into ``features``.

    Each image is sampled at two sets of points: the first for itself, the second for when it is the other image.

    Args:
        features: (B, D, h, w) of the images, and of their neighbours.
        codes: (B, C, h, w) of the same.
        side: n.
        num_random: how often each image is compared with some other of the batch.
        centring: ``row`` or ``row_keep_mean``, see `centre`.
    """
    batch, device = len(features[0]), features[0].device
    first, second = random_points(batch, side, device), random_points(batch, side, device)
    (f, f_other, f_near), (c, c_other, c_near) = (
        (sample(images, first), sample(images, second), sample(near, second)) for images, near in (features, codes)
    )

    def compare(f_right: torch.Tensor, c_right: torch.Tensor) -> Pair:
        return centre(cosines(f, f_right), centring).detach(), cosines(c, c_right)

    others = [other_image(batch, device) for _ in range(num_random)]
    return {
        "self": [compare(f, c)],
        "knn": [compare(f_near, c_near)],
        "random": [compare(f_other[other], c_other[other]) for other in others],
    }


def choose_shifts(
    features: torch.Tensor, near: torch.Tensor, num_classes: int, side: int, centring: str, seed: int
) -> dict[str, dict[str, float]]:
    """Shifts of the loss from the features themselves, without labels.

    The shift b of a term decides which of its pairs of points attract (F > b) and which repel. With b far below the
    mean of F a photo's codes fall into one; far above, they scatter. So within a crop and with its neighbour b is the
    mean of F, where both forces balance. Random pairs are there to keep classes apart: only the share that belongs
    together should attract, and raw features grouped into S clusters by spherical k-means tell it: how often both
    points of a pair fall into one cluster. b of that term is the quantile of F that leaves that share above it.

    Args:
        features: float32 (B, D, h, w) of some crops.
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
