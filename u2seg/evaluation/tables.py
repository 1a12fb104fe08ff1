"""What every figure is made of: how many pixels each true segment shares with each predicted one.

Segments are rows of `SEGMENT`, so that every step after the photos are read is a few numpy calls. Memory is some 100
bytes for each segment and each pair of segments, whatever the size of the photos.

Shapes: ``H, W`` image pixels; ``n`` segments; ``G`` true and ``P`` predicted segments (of one image, or of a whole set
once joined); ``M`` pairs of segments that share a pixel; ``I`` images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.runs import boxes_of, changes, encode_segments, places
from u2seg.panoptic import LARGEST_ID, SegmentInfo

VOID = -1
"""Index of a segment, or a class, that is none."""

SEGMENT = np.dtype(
    [
        ("image", np.int64),  # index in the set, rising; 0 until images are joined
        ("id", np.int64),  # in the map of the image
        ("category", np.int64),  # category_id of the file
        ("isthing", bool),
        ("crowd", bool),
        ("area", np.int64),  # pixels, counted in the map
        ("box", np.float64, 4),  # x, y, width, height in pixels, of the mask; zeros for stuff
        ("code", object),  # run-length code of the mask; None for stuff
        ("score", np.float64),
        # Detection, or region of the semantic head, of the same image that a model's segment was made of, or VOID.
        ("origin", np.int64),
    ]
)
"""A segment, a detection, or a region of a semantic map."""


@dataclass(frozen=True)
class ImageTable:
    """One image: its segments on both sides, and what they share."""

    pixels: np.ndarray  # int64 (G+1, P+1); row 0 is void of the ground truth, column 0 void of the prediction
    gt: np.ndarray  # `SEGMENT` (G,)
    pred: np.ndarray  # `SEGMENT` (P,)
    size: tuple[int, int]  # H, W


def compare_maps(
    gt_ids: np.ndarray,
    pred_ids: np.ndarray,
    gt: Sequence[SegmentInfo],
    pred: Sequence[SegmentInfo],
    *,
    of_model: bool = False,
) -> ImageTable:
    """The table of two panoptic maps.

    Boxes and areas that a JSON gives are redundant, often absent and sometimes stale: they are taken from the maps.

    Args:
        gt_ids: integer (H, W) in [0, 2^24), segment ids of the ground truth, 0 void.
        pred_ids: the same for the prediction.
        gt: the true segments.
        pred: the predicted segments.
        of_model: leave out predicted segments without a pixel, which others were painted over, and give none a box or
            code: those come with the detections.

    Raises:
        DataError: the maps and the lists contradict each other.
    """
    pixels = overlap_table(gt_ids, pred_ids, [s.id for s in gt], [s.id for s in pred])
    gt_rows, pred_rows = segment_rows(gt, pixels[1:].sum(axis=1)), segment_rows(pred, pixels[:, 1:].sum(axis=0))
    _add_masks(gt_rows, gt_ids)
    if of_model:
        visible = np.flatnonzero(pred_rows["area"])
        pixels, pred_rows = pixels[:, np.append(0, visible + 1)], pred_rows[visible]
    elif not pred_rows["area"].all():
        missing = pred_rows["id"][pred_rows["area"] == 0][0]
        raise DataError(f"its label has no pixel of segment id {missing}, which the JSON lists")
    else:
        _add_masks(pred_rows, pred_ids)
    return ImageTable(pixels, gt_rows, pred_rows, gt_ids.shape)


def overlap_table(gt_ids: np.ndarray, pred_ids: np.ndarray, gt: Sequence[int], pred: Sequence[int]) -> np.ndarray:
    """Pixels int64 (G+1, P+1) that segments of two maps share; row and column 0 are void.

    Row ``i + 1`` is the segment with id ``gt[i]``, and likewise the columns; the maps are as of `compare_maps`.

    Raises:
        DataError: the maps differ in size, or hold an id that is in neither list.
    """
    if gt_ids.shape != pred_ids.shape:
        sizes = [f"{ids.shape[1]} x {ids.shape[0]}" for ids in (pred_ids, gt_ids)]
        raise DataError(f"its label is {sizes[0]} pixels, the ground truth {sizes[1]}")
    starts = changes(gt_ids, pred_ids)  # runs of pixels that agree in both are counted at once
    lengths = np.diff(starts, append=gt_ids.size)
    rows, columns = _rows(gt_ids.ravel()[starts], gt), _rows(pred_ids.ravel()[starts], pred)
    counts = count_grid(rows, columns, lengths, (len(gt) + 2, len(pred) + 2))
    sides = ("ground truth", counts[0], gt_ids, gt), ("label", counts[:, 0], pred_ids, pred)
    for side, unlisted, ids, known in sides:
        if unlisted.any():
            strange = sorted(set(np.unique(ids).tolist()) - {0, *known})
            raise DataError(f"the PNG of its {side} holds segment id {strange[0]}, which the JSON does not list")
    return counts[1:, 1:]


def _rows(values: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """int64, for each of ``values``: 1 for void, 2.. for ``ids``, 0 for any other."""
    if len(set(ids)) != len(ids) or not all(0 < each <= LARGEST_ID for each in ids):
        raise DataError(f"its segment ids are not distinct numbers in 1..{LARGEST_ID}")
    return places(values, [0, *ids]) + 1


def segment_rows(segments: Sequence[SegmentInfo], area: np.ndarray) -> np.ndarray:
    """`SEGMENT` (n,) without boxes and codes; ``area`` int64 (n,) pixels."""
    rows = np.zeros(len(segments), SEGMENT)
    rows["id"] = [segment.id for segment in segments]
    rows["category"] = [segment.category_id for segment in segments]
    rows["isthing"] = [segment.isthing for segment in segments]
    rows["crowd"] = [segment.iscrowd for segment in segments]
    rows["score"] = [segment.score for segment in segments]
    rows["area"], rows["origin"], rows["code"] = area, VOID, None
    return rows


def _add_masks(rows: np.ndarray, ids: np.ndarray) -> None:
    """Put codes and boxes of the things in the map ``ids`` into their ``rows``."""
    things = np.flatnonzero(rows["isthing"])
    codes = encode_segments(ids, rows["id"][things].tolist())
    rows["code"][things], rows["box"][things] = codes, boxes_of(codes)


@dataclass(frozen=True)
class SetTable:
    """Segments and shared pixels of a whole set."""

    gt: np.ndarray  # `SEGMENT` (G,)
    pred: np.ndarray  # `SEGMENT` (P,)
    pair_gt: np.ndarray
    """int64 (M,) index of the true segment, `VOID` outside all; pairs run by image, then true, then predicted."""
    pair_pred: np.ndarray  # int64 (M,) index of the predicted segment, `VOID` outside all
    pixels: np.ndarray  # int64 (M,), all above 0
    sizes: tuple[tuple[int, int], ...]  # (I,) height and width in pixels

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.sizes)

    @classmethod
    def join(cls, images: Sequence[ImageTable]) -> SetTable:
        """Put the images' tables side by side."""
        pairs = [np.zeros((3, 0), np.int64)]
        starts = np.zeros(2, np.int64)
        for image in images:
            index = np.stack(np.nonzero(image.pixels))
            numbered = np.where(index > 0, index - 1 + starts[:, None], VOID)
            pairs.append(np.vstack([numbered, image.pixels[tuple(index)]]))
            starts += (len(image.gt), len(image.pred))
        gt, pred = join_rows([image.gt for image in images]), join_rows([image.pred for image in images])
        pair_gt, pair_pred, shared = np.concatenate(pairs, axis=1)
        return cls(gt, pred, pair_gt, pair_pred, shared, tuple(image.size for image in images))


def join_rows(images: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all ``images``, each `SEGMENT` (n,), one after another, with the index of their image."""
    rows = np.concatenate([np.zeros(0, SEGMENT), *images])
    rows["image"] = np.repeat(np.arange(len(images)), [len(image) for image in images])
    return rows


def sum_pairs(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each different pair of ``first`` and ``second``, integers from -1, in rising order, and its sum of weights."""
    width = int(second.max(initial=0)) + 2
    keys, inverse = np.unique((first + 1) * width + second + 1, return_inverse=True)
    total = np.bincount(inverse.reshape(-1), weights=weight, minlength=len(keys)).astype(np.int64)
    return keys // width - 1, keys % width - 1, total


def count_grid(row: np.ndarray, column: np.ndarray, weight: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """``weight`` summed at ``row`` and ``column``, int64 of ``shape``."""
    counts = np.bincount(row * shape[1] + column, weights=weight, minlength=shape[0] * shape[1])
    return counts.astype(np.int64).reshape(shape)
