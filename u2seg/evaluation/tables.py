"""What every figure is made of: how many pixels each true segment shares with each predicted one.

Segments are rows of `SEGMENT`, so that every step after the photos are read is a few numpy calls. Memory is some 100
bytes for each segment and each pair of segments, whatever the size of the photos.

Shapes: ``H, W`` image pixels; ``n`` segments or pairs; ``G`` true and ``P`` predicted segments; ``M`` pairs of segments
that share a pixel; ``I`` images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from scipy.sparse import coo_array

from u2seg.errors import DataError
from u2seg.panoptic import SegmentInfo
from u2seg.panoptic.photos import misstated
from u2seg.panoptic.reading import warn_of_statements
from u2seg.panoptic.run_lengths import encode_segments, positions

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
        ("code", object),  # bytes, the ``counts`` of the mask's compressed run-length code; None for stuff
        ("score", np.float64),
        ("misstated", bool),  # the file states another area or box than there is in the map
        # Detection, or region of the semantic head, that a model's segment was made of: its index in the image until
        # images are joined, then among the members of a `Comparison`; or VOID.
        ("origin", np.int64),
    ]
)
"""A segment, a detection, or a region of a semantic map."""


@dataclass(frozen=True)
class Table:
    """Segments of one image, or of a whole set, and the pixels that they share."""

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
    def join(cls, images: Iterable[Table]) -> Table:
        """One table of all ``images``, tables of one or of several, of which one is in memory beside it at a time."""
        gt, pred = Growing(SEGMENT), Growing(SEGMENT)
        pair_gt, pair_pred, pixels = Growing(np.int64), Growing(np.int64), Growing(np.int64)
        sizes: list[tuple[int, int]] = []
        for image in images:
            for joined, indices, start in ((pair_gt, image.pair_gt, len(gt)), (pair_pred, image.pair_pred, len(pred))):
                joined.extend(np.where(indices == VOID, VOID, indices + start))
            pixels.extend(image.pixels)
            for rows, of_image in ((gt, image.gt), (pred, image.pred)):
                rows.extend(of_image)["image"] += len(sizes)
            sizes += image.sizes
        pairs = pair_gt.array(), pair_pred.array(), pixels.array()
        return cls(gt.array(), pred.array(), *pairs, tuple(sizes))


class Growing:
    """An array that is joined of many, in place: the memory of a large one grows without a copy."""

    def __init__(self, dtype: Any) -> None:
        """Empty, of ``dtype``."""
        self._values, self._length = np.zeros(0, dtype), 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: np.ndarray) -> np.ndarray:
        """Add ``values`` (n,) at the end; what was added, to be changed before the next is."""
        start, self._length = self._length, self._length + len(values)
        if self._length > len(self._values):
            self._values.resize(self._length + self._length // 8, refcheck=False)
        added = self._values[start : self._length]
        added[...] = values
        return added

    def array(self) -> np.ndarray:
        """The array (n,) itself, to which nothing more may be added."""
        self._values.resize(self._length, refcheck=False)
        return self._values


def join_rows(images: Iterable[np.ndarray], first: int = 0) -> np.ndarray:
    """The rows of ``images``, each `SEGMENT` (n,), one after another, with the index of their image from ``first``."""
    joined = Growing(SEGMENT)
    for index, rows in enumerate(images, first):
        joined.extend(rows)["image"] += index
    return joined.array()


def rows_of_images(rows: np.ndarray, start: int, end: int) -> np.ndarray:
    """Those of ``rows``, `SEGMENT` (n,), that are of the images from index ``start`` up to ``end``: a view."""
    first, beyond = np.searchsorted(rows["image"], (start, end))
    return rows[first:beyond]


def compare_maps(
    gt_ids: np.ndarray,
    pred_ids: np.ndarray,
    gt: Sequence[SegmentInfo],
    pred: Sequence[SegmentInfo],
    *,
    of_model: bool = False,
) -> Table:
    """The table of two panoptic maps of one image.

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
    overlap = overlap_table(gt_ids, pred_ids, [s.id for s in gt], [s.id for s in pred])
    gt_rows = segment_rows(gt, overlap[1:].sum(axis=1), gt_ids)
    pred_rows = segment_rows(pred, overlap[:, 1:].sum(axis=0), None if of_model else pred_ids)
    visible = pred_rows["area"] > 0
    if not (of_model or visible.all()):
        missing = pred_rows["id"][~visible][0]
        raise DataError(f"its label has no pixel of segment id {missing}, which the JSON lists")
    overlap, pred_rows = overlap[:, np.append(True, visible)], pred_rows[visible]
    row, column = np.nonzero(overlap)
    return Table(gt_rows, pred_rows, row - 1, column - 1, overlap[row, column], (gt_ids.shape,))  # void 0 is VOID -1


def overlap_table(gt_ids: np.ndarray, pred_ids: np.ndarray, gt: Sequence[int], pred: Sequence[int]) -> np.ndarray:
    """Pixels int64 (G+1, P+1) that segments of two maps share; row and column 0 are void.

    Row ``i + 1`` is the segment with id ``gt[i]``, and likewise the columns; the maps are as of `compare_maps`.

    Raises:
        DataError: the maps differ in size, or hold an id that is not listed, or one is listed twice.
    """
    if gt_ids.shape != pred_ids.shape:
        sizes = [f"{ids.shape[1]} x {ids.shape[0]}" for ids in (pred_ids, gt_ids)]
        raise DataError(f"its label is {sizes[0]} pixels, the ground truth {sizes[1]}")
    gt_ids, pred_ids = gt_ids.ravel(), pred_ids.ravel()
    changes = np.ones(gt_ids.size, bool)
    np.not_equal(gt_ids[1:], gt_ids[:-1], out=changes[1:])
    changes[1:] |= pred_ids[1:] != pred_ids[:-1]
    starts = np.flatnonzero(changes)  # runs of pixels that agree in both are counted at once
    places = []
    for side, ids, listed in (("ground truth", gt_ids[starts], gt), ("label", pred_ids[starts], pred)):
        if len({0, *listed}) <= len(listed):
            raise DataError(f"the segment ids of its {side} are not distinct numbers other than 0")
        places.append(positions(ids, [0, *listed]))
        if (places[-1] == VOID).any():
            strange = ids[places[-1] == VOID].min()
            raise DataError(f"the PNG of its {side} holds segment id {strange}, which the JSON does not list")
    return count_grid(places[0], places[1], np.diff(starts, append=gt_ids.size), (len(gt) + 1, len(pred) + 1))


def segment_rows(segments: Sequence[SegmentInfo], area: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """`SEGMENT` (n,); ``area`` int64 (n,) pixels; things have boxes and codes if their map ``ids`` is given."""
    columns = [
        (0, s.id, s.category_id, s.isthing, s.iscrowd, 0, (0,) * 4, None, s.score, False, VOID) for s in segments
    ]
    rows = np.array(columns, SEGMENT)
    rows["area"] = area
    if ids is not None:
        things = np.flatnonzero(rows["isthing"])
        codes = encode_segments(ids, rows["id"][things].tolist())
        rows["code"][things] = [code["counts"] for code in codes]
        rows["box"][things] = coco.toBbox(codes)
    box = np.where(rows["isthing"][:, None], rows["box"], np.nan)
    rows["misstated"] = misstated([s.stated for s in segments], area, box)
    return rows


def warn_of_rows(json_file: Path, rows: np.ndarray) -> None:
    """`warn_of_statements` of all segments of a file, `SEGMENT` (n,)."""
    wrong, empty = (int(np.count_nonzero(flags)) for flags in (rows["misstated"], rows["area"] == 0))
    warn_of_statements(json_file, len(rows), wrong, empty)


def sum_pairs(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each different pair of ``first`` and ``second``, int64 (n,) from -1, in rising order, and its sum of weights."""
    shape = first.max(initial=VOID) + 2, second.max(initial=VOID) + 2
    summed = coo_array((weight, (first + 1, second + 1)), shape).tocsr().tocoo()
    return summed.row - 1, summed.col - 1, summed.data


def count_grid(row: np.ndarray, column: np.ndarray, weight: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """``weight`` summed at ``row`` and ``column``, int64 of ``shape``."""
    counts = np.bincount(row * shape[1] + column, weights=weight, minlength=shape[0] * shape[1])
    return counts.astype(np.int64).reshape(shape)
