"""Shifts of STEGO's loss from the features themselves, without labels; and plots of the similarities.

Shapes: ``n`` crops that are looked at; ``P`` points of a crop; ``S`` classes; ``D`` channels of a feature.

The shift b of a term decides which of its pairs of points attract (F > b) and which repel. With b far below the mean of
F a photo's codes fall into one; far above, they scatter. So within a crop and with its neighbour b is the mean of F,
where both forces balance. Random pairs are there to keep classes apart: only the share that belongs together should
attract, and raw features grouped into S clusters by spherical k-means tell it without labels: how often both points of
a pair fall into one cluster. b of that term is the quantile of F that leaves that share above it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from u2seg.errors import UsageError
from u2seg.modeling.stego_loss import TERMS, Pair, centre, cosines, other_image, random_points, sample

logger = logging.getLogger(__name__)

MOST_VALUES = 2_000_000
BINS = 80


def spherical_kmeans(vectors: torch.Tensor, count: int, seed: int, starts: int = 3, steps: int = 30) -> torch.Tensor:
    """Unit centres float32 (S, D) that ``vectors`` float32 (M, D), of unit length, are nearest to by cosine.

    Starts as k-means++ does; a cluster that empties takes the vector that its own centre fits worst. The best of
    ``starts`` is returned.

    Raises:
        UsageError: there are fewer vectors than clusters.
    """
    if len(vectors) < count:
        raise UsageError(
            f"U2SEG.NUM_STUFF {count} asks for more classes than there are patches to learn from ({len(vectors)})"
        )
    best, best_fit = vectors[:count], -np.inf
    generator = torch.Generator().manual_seed(seed)
    for _ in range(starts):
        centres = _spread(vectors, count, generator)
        for _ in range(steps):
            cosine, nearest = (vectors @ centres.T).max(dim=1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
            empty = torch.bincount(nearest, minlength=count) == 0
            if empty.any():
                sums[empty] = vectors[cosine.argsort()[: int(empty.sum())]]
            centres = normalize(sums, dim=1)
        fit = float((vectors @ centres.T).max(dim=1).values.mean())
        if fit > best_fit:
            best, best_fit = centres, fit
    return best


def _spread(vectors: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    far = 1 - vectors @ vectors[chosen[0]]
    for _ in range(count - 1):
        weights = far.clamp(min=1e-9).double().cpu().cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * weights[-1]
        chosen.append(min(int(torch.searchsorted(weights, drawn)), len(vectors) - 1))
        far = torch.minimum(far, 1 - vectors @ vectors[chosen[-1]])
    return vectors[chosen].clone()


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = random_points(len(features), side, features), random_points(len(features), side, features)
        other = other_image(len(features), features.device)
    own, alike = sample(features, first), sample(near, second)
    strange = sample(features[other], second)
    points = normalize(own.flatten(2).transpose(1, 2).reshape(-1, own.shape[1]), dim=1)
    centres = spherical_kmeans(points[:: max(1, len(points) // 20_000)], num_classes, seed)
    found = {}
    for term, (left, right) in zip(TERMS, ((own, own), (own, alike), (own, strange)), strict=True):
        ids = [_nearest(part, centres) for part in (left, right)]
        same = float((ids[0][:, :, None] == ids[1][:, None, :]).float().mean())
        every = centre(cosines(left, right), centring).flatten()
        values = every[:: max(1, len(every) // MOST_VALUES)].cpu().numpy()
        shift = float(np.quantile(values, 1 - same) if term == "random" else values.mean(dtype=np.float64))
        found[term] = {"shift": shift, "attract": float((values > shift).mean()), "same": same}
    return found


def _nearest(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Cluster int64 (n, P) of ``points`` (n, D, side, side)."""
    return torch.einsum("ndp,sd->nps", normalize(points.flatten(2), dim=1), centres).argmax(dim=2)


def plot_similarities(pairs: dict[str, list[Pair]], shifts: dict[str, float], title: str, path: Path) -> None:
    """Histograms of the cosines of features (with b) and of codes, one panel a term, as a PNG at ``path``.

    These are what one tunes b by: in a good run the codes' histogram of each term has two bumps, one at 0.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TERMS), figsize=(13, 3.6), sharey=True)
    for panel, term in zip(panels, TERMS, strict=True):
        if not pairs.get(term):
            continue
        above = np.concatenate([(pair.features > shifts[term]).float().cpu().numpy().ravel() for pair in pairs[term]])
        for values, label in (("features", "features, centred"), ("codes", "codes")):
            stacked = torch.cat([getattr(pair, values).detach().float().flatten() for pair in pairs[term]]).cpu()
            panel.hist(stacked.numpy(), BINS, (-1, 1), density=True, histtype="step", label=label)
        panel.axvline(shifts[term], color="black", linestyle="--", label=f"b = {shifts[term]:.3f}")
        panel.set_title(f"{term}: {above.mean():.1%} of pairs attract")
        panel.set_xlabel("cosine")
        panel.legend(fontsize=7)
    panels[0].set_ylabel("density")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
