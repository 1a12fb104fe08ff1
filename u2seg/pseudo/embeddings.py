"""One vector for each mask, for the clustering of masks into pseudo-classes.

Crops cost a pass of the network each, so only masks that clusters are learnt from, and the best of each photo, have
one; the others are named by the mean of the features inside them, which costs nothing. Nested masks of one thing have
almost the same crop: learnt from all, they would make a cluster of their own, which no other photo is in.

Shapes: ``H, W`` image pixels; ``h, w`` feature grid; ``D`` channels of a feature; ``E`` channels of a crop's embedding;
``N`` masks of a photo, ``n`` of them with a vector; ``s`` pixels per side of a crop; ``K`` clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from u2seg.pseudo.clusters import unit_length

if TYPE_CHECKING:
    from u2seg.structures import MaskSet

MARGIN = 0.1
"""Added on each side of a mask's box, share of the box's longer side."""
BEST = 3
"""Masks of a photo that have a crop's vector whatever their scores, so that small sets can be clustered."""


class MaskVectors(NamedTuple):
    """What masks are named by."""

    vectors: np.ndarray
    """float32 (n, E), rows of length 1"""
    embedded: np.ndarray
    """int64 (n,), the masks that they are of, ascending"""
    means: np.ndarray
    """float32 (N, D), mean features, rows of length 1; (N, 0) where all masks of all photos have a vector"""


def embed_masks(
    kind: str,
    extractor: Any,
    image: np.ndarray,
    features: np.ndarray,
    masks: MaskSet,
    crop_size: int,
    min_score: float,
    max_overlap: float = 1.0,
) -> MaskVectors:
    """Vectors of those of ``masks`` bool (N, H, W) that clusters are learnt from, and of the `BEST`.

    Args:
        kind: "crop": the embedding of the image cut to the mask (`crop_embeddings`), as the paper; "mean": features
            inside the mask (`mean_embeddings`).
        extractor: the `FeatureExtractor` that made ``features``.
        image: uint8 (H, W, 3).
        features: float32 (D, h, w) of ``image``.
        masks: of ``image``.
        crop_size: s.
        min_score: as of `choose_apart`.
        max_overlap: as of `choose_apart`.
    """
    if embeds_all(kind, min_score, max_overlap):
        chosen, means = np.arange(len(masks)), np.zeros((len(masks), 0), np.float32)
    else:
        chosen, means = choose_apart(masks, min_score, max_overlap), mean_embeddings(features, masks.masks)
    apart = masks.masks[chosen]
    if kind == "mean":
        return MaskVectors(mean_embeddings(features, apart), chosen, means)
    return MaskVectors(crop_embeddings(extractor, image, apart, crop_size), chosen, means)


def embeds_all(kind: str, min_score: float, max_overlap: float) -> bool:
    """Whether every mask has a vector of its own, so that none is named by its mean features."""
    return (kind == "mean" or min_score <= 0) and max_overlap >= 1


def choose_apart(masks: MaskSet, min_score: float, max_overlap: float) -> np.ndarray:
    """Masks bool (N, H, W), best first, that lie apart from all better ones that are chosen: int64 (n,), ascending.

    Args:
        masks: of a photo.
        min_score: masks below it are only chosen while there are fewer than `BEST`.
        max_overlap: two masks lie apart where they share at most this much of the smaller one, in [0, 1].
    """
    areas, chosen = masks.masks.sum(axis=(1, 2)), list[int]()
    for index in np.argsort(-masks.scores, kind="stable").tolist():
        if len(chosen) >= BEST and masks.scores[index] < min_score:
            break
        shared = (np.count_nonzero(masks.masks[index] & masks.masks[other]) for other in chosen)
        limits = (max_overlap * min(areas[index], areas[other]) for other in chosen)
        if all(pixels <= limit for pixels, limit in zip(shared, limits, strict=True)):
            chosen.append(index)
    return np.sort(np.array(chosen, np.int64))


def cluster_ids(masks: MaskVectors, clusterer: Any, centres: np.ndarray) -> np.ndarray:
    """Cluster int64 (N,) of each mask of a photo.

    Args:
        masks: what they are named by.
        clusterer: the `Clusterer`, which names those with a vector.
        centres: float32 (K, D), mean of the mean features in each cluster, for those without: the most like it.
    """
    if not masks.means.shape[1]:
        return np.asarray(clusterer.predict(masks.vectors), np.int64)
    ids = (masks.means @ centres.T).argmax(axis=1)
    ids[masks.embedded] = clusterer.predict(masks.vectors)
    return ids


def mean_embeddings(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean of ``features`` float32 (D, h, w) in each mask bool (N, H, W), float32 (N, D), rows of length 1.

    A cell of the grid counts by the share of its area that the mask covers, so a mask smaller than a cell has a vector.
    """
    dim, height, width = features.shape
    rows, columns = _overlaps(height, masks.shape[1]), _overlaps(width, masks.shape[2])
    cover = (rows @ masks.astype(np.float32) @ columns.T).reshape(len(masks), height * width)
    return unit_length((cover / cover.sum(axis=1, keepdims=True)) @ features.reshape(dim, -1).T)


def _overlaps(cells: int, pixels: int) -> np.ndarray:
    """Length of each pixel, in pixels, that lies in each cell of the same line, float32 (cells, pixels)."""
    edges, starts = np.arange(cells + 1) * (pixels / cells), np.arange(pixels)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.maximum(shared, 0).astype(np.float32)


def crop_embeddings(extractor: Any, image: np.ndarray, masks: np.ndarray, crop_size: int = 224) -> np.ndarray:
    """Embedding float32 (N, E) of ``image`` cut to each mask: a square box with a margin, the background filled.

    Filled backgrounds and square boxes told classes apart best on human masks (docs/research/names.md). Where the
    extractor has no ``embed``, the mean of its features over the grid stands for it.
    """
    colour = mean_colour(image)
    crops = [crop_image(image, mask, crop_size, colour) for mask in masks]
    if hasattr(extractor, "embed"):
        return unit_length(extractor.embed(crops))
    means = [grid.mean(axis=(1, 2)) for grid in extractor.extract(crops)]
    return unit_length(np.array(means, np.float32).reshape(len(masks), extractor.dim))


def mean_colour(image: np.ndarray) -> np.ndarray:
    """Mean of ``image`` uint8 (H, W, 3), rounded, uint8 (3,)."""
    by_column = image.sum(axis=0, dtype=np.uint32)  # five times as fast as summing all rows of three at once
    return (by_column.sum(axis=0) / (image.shape[0] * image.shape[1])).round().astype(np.uint8)


def crop_image(image: np.ndarray, mask: np.ndarray, crop_size: int, colour: np.ndarray) -> np.ndarray:
    """``image`` uint8 (H, W, 3) cut to ``mask`` bool (H, W), ``colour`` uint8 (3,) beside it: uint8 (s, s, 3)."""
    from PIL import Image

    top, left, side = _square(mask)
    crop = Image.new("RGB", (side, side), tuple(colour.tolist()))
    crop.paste(Image.fromarray(image), (-left, -top), Image.fromarray(mask))
    return np.asarray(crop.resize((crop_size, crop_size), Image.Resampling.BICUBIC))


def _square(mask: np.ndarray) -> tuple[int, int, int]:
    """Top, left and side in pixels of the square around ``mask`` bool (H, W); it may reach beyond the image."""
    lines = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    spans = [(int(line[0]), int(line[-1]) + 1) for line in lines]
    longest = max(end - start for start, end in spans)
    side = longest + 2 * MARGIN * longest
    top, left = (round((start + end - side) / 2) for start, end in spans)
    return top, left, max(round(side), 1)
