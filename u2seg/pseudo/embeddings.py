"""One vector for each mask, for the clustering of masks into pseudo-classes.

Shapes: ``H, W`` image pixels; ``h, w`` feature grid; ``D`` channels of a feature; ``E`` channels of a crop's embedding;
``N`` masks; ``s`` pixels per side of a crop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from u2seg.errors import DataError, lookup
from u2seg.pseudo.centres import unit_length

KINDS = ("crop", "mean")
MARGIN = 0.1
"""Added on each side of a mask's box, share of the box's longer side."""


def mask_embeddings(
    kind: str, extractor: Any, image: np.ndarray, features: np.ndarray, masks: np.ndarray, crop_size: int = 224
) -> np.ndarray:
    """Embeddings of the masks of one image.

    Args:
        kind: "crop": the embedding of the image cut to the mask (`crop_embeddings`), as the paper; "mean": features
            inside the mask (`mean_embeddings`).
        extractor: the `FeatureExtractor` that made ``features``.
        image: uint8 (H, W, 3).
        features: float32 (D, h, w) of ``image``.
        masks: bool (N, H, W), none empty.
        crop_size: s, pixels.

    Returns:
        float32 (N, D) or (N, E), rows of length 1.

    Raises:
        UsageError: there is no such kind.
    """
    lookup("mask embedding", kind, dict.fromkeys(KINDS))
    if kind == "mean":
        return mean_embeddings(features, masks)
    return crop_embeddings(extractor, image, masks, crop_size)


def mean_embeddings(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean of ``features`` float32 (D, h, w) in each mask bool (N, H, W), float32 (N, D), rows of length 1.

    A cell of the grid counts by the share of its area that the mask covers, so a mask smaller than a cell has a vector.

    Raises:
        DataError: a mask is empty.
    """
    dim, height, width = features.shape
    if not masks.any(axis=(1, 2)).all():
        raise DataError("an empty mask has no embedding")
    rows, columns = _overlaps(height, masks.shape[1]), _overlaps(width, masks.shape[2])
    cover = rows @ masks.astype(np.float32) @ columns.T  # (N, h, w)
    cover = cover.reshape(len(masks), height * width)
    means = (cover / cover.sum(axis=1, keepdims=True)) @ features.reshape(dim, -1).T
    return unit_length(means)


def _overlaps(cells: int, pixels: int) -> np.ndarray:
    """Length of each pixel, in pixels, that lies in each cell of the same line, float32 (cells, pixels)."""
    edges = np.arange(cells + 1) * (pixels / cells)
    starts = np.arange(pixels)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.maximum(shared, 0).astype(np.float32)


def crop_embeddings(extractor: Any, image: np.ndarray, masks: np.ndarray, crop_size: int = 224) -> np.ndarray:
    """Embedding of ``image`` cut to each mask: its box made square, with a margin, the background filled.

    Filled backgrounds and square boxes told classes apart best on human masks (docs/research/masks.md).

    Args:
        extractor: a `FeatureExtractor`; where it has no ``embed``, the mean of its features over the grid is taken.
        image: uint8 (H, W, 3).
        masks: bool (N, H, W), none empty.
        crop_size: s, pixels.

    Returns:
        float32 (N, E), rows of length 1.
    """
    crops = [crop_image(image, mask, crop_size) for mask in masks]
    if hasattr(extractor, "embed"):
        return unit_length(extractor.embed(crops))
    means = [grid.mean(axis=(1, 2)) for grid in extractor.extract(crops)]
    return unit_length(np.array(means, np.float32).reshape(len(masks), extractor.dim))


def crop_image(image: np.ndarray, mask: np.ndarray, crop_size: int) -> np.ndarray:
    """``image`` uint8 (H, W, 3) cut to ``mask`` bool (H, W), its mean colour beside the mask: uint8 (s, s, 3)."""
    from PIL import Image

    colour = image.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    top, bottom, left, right = _box(mask)
    crop = np.tile(colour, (bottom - top, right - left, 1))
    inside = np.s_[max(top, 0) : bottom, max(left, 0) : right]
    visible = np.where(mask[inside][..., None], image[inside], colour)
    y, x = max(-top, 0), max(-left, 0)
    crop[y : y + visible.shape[0], x : x + visible.shape[1]] = visible
    return np.asarray(Image.fromarray(crop).resize((crop_size, crop_size), Image.Resampling.BICUBIC))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right in pixels of the square around ``mask`` bool (H, W); may reach beyond the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise DataError("an empty mask has no embedding")
    spans = [(int(line[0]), int(line[-1]) + 1) for line in (rows, columns)]
    longest = max(end - start for start, end in spans)
    side = longest + 2 * MARGIN * longest
    edges = []
    for start, end in spans:
        first = round((start + end - side) / 2)
        edges += [first, first + max(round(side), 1)]
    return edges[0], edges[1], edges[2], edges[3]
