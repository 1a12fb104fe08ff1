"""What every figure is made of: how many pixels each true segment shares with each predicted one.

Shapes: ``H, W`` image pixels; ``G`` ground-truth and ``P`` predicted segments (of one image, or of a whole set once
joined); ``M`` pairs of segments that share a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.dataset import LabelledImage
from u2seg.evaluation.runs import changes, encode_segments, places
from u2seg.panoptic import LARGEST_ID, read_ids


@dataclass(frozen=True)
class Segments:
    """Segments in a fixed order, as columns; ``n`` of them."""

    category: np.ndarray
    """int64 (n,), ``category_id`` of the file."""
    isthing: np.ndarray
    """bool (n,)"""
    crowd: np.ndarray
    """bool (n,)"""
    area: np.ndarray
    """int64 (n,) pixels: what the JSON says for ground truth, as panopticapi takes it; counted for predictions."""
    box: np.ndarray
    """float64 (n, 4): x, y, width, height in pixels."""
    score: np.ndarray
    """float64 (n,), 1 where the file gives none."""

    def __len__(self) -> int:
        return len(self.category)

    @classmethod
    def from_info(cls, info: Sequence[Mapping[str, Any]], things: frozenset[int]) -> Segments:
        """Columns of a ``segments_info`` list; ``things`` are the category ids of things."""
        category = np.array([segment["category_id"] for segment in info], np.int64)
        return cls(
            category=category,
            isthing=np.array([c in things for c in category.tolist()], bool),
            crowd=np.array([segment.get("iscrowd", 0) for segment in info], bool),
            area=np.array([segment.get("area", -1) for segment in info], np.int64),
            box=np.array([segment.get("bbox", (0, 0, 0, 0)) for segment in info], float).reshape(-1, 4),
            score=np.array([segment.get("score", 1.0) for segment in info], float),
        )

    def with_area(self, area: np.ndarray) -> Segments:
        """The same segments with other areas, int64 (n,) pixels."""
        return Segments(self.category, self.isthing, self.crowd, area, self.box, self.score)

    def with_category(self, category: np.ndarray) -> Segments:
        """The same segments with other category ids, int64 (n,)."""
        return Segments(category, self.isthing, self.crowd, self.area, self.box, self.score)

    @classmethod
    def join(cls, parts: Sequence[Segments]) -> Segments:
        """All ``parts`` one after another."""
        columns = ("category", "isthing", "crowd", "area", "box", "score")
        empty = cls.from_info([], frozenset())
        return cls(*(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in columns))


@dataclass(frozen=True)
class ImageOverlap:
    """One image: its segments on both sides, and what they share."""

    table: np.ndarray
    """int64 (G+1, P+1) pixels; row 0 is void of the ground truth, column 0 void of the prediction."""
    gt: Segments
    pred: Segments
    gt_runs: tuple[dict[str, Any] | None, ...] = ()
    """Run-length code of each true thing, None for stuff; empty if nobody asked."""


def overlap_table(gt_ids: np.ndarray, pred_ids: np.ndarray, gt: Sequence[int], pred: Sequence[int]) -> np.ndarray:
    """Count shared pixels of all pairs of segments.

    Args:
        gt_ids: integer (H, W) in [0, 2^24), 0 void.
        pred_ids: the same for the prediction.
        gt: ids of the G true segments; row ``i + 1`` of the result is ``gt[i]``.
        pred: ids of the P predicted segments.

    Returns:
        int64 (G+1, P+1) pixels, row and column 0 void.

    Raises:
        DataError: the maps differ in size, or hold an id that is in neither list.
    """
    if gt_ids.shape != pred_ids.shape:
        raise DataError(f"its label is {_size(pred_ids)} pixels, the ground truth {_size(gt_ids)}")
    starts = changes(gt_ids, pred_ids)  # runs of pixels that agree in both are counted as one
    lengths = np.diff(starts, append=gt_ids.size)
    rows, columns = _rows(gt_ids.ravel()[starts], gt), _rows(pred_ids.ravel()[starts], pred)
    flat = rows * (len(pred) + 2) + columns
    counts = np.bincount(flat, weights=lengths, minlength=(len(gt) + 2) * (len(pred) + 2))
    counts = counts.reshape(len(gt) + 2, len(pred) + 2)
    for side, unknown, ids, known in (("ground truth", counts[0], gt_ids, gt), ("label", counts[:, 0], pred_ids, pred)):
        if unknown.any():
            strange = sorted(set(np.unique(ids).tolist()) - {0, *known})
            raise DataError(f"the PNG of its {side} holds segment id {strange[0]}, which the JSON does not list")
    return counts[1:, 1:].astype(np.int64)


def _rows(values: np.ndarray, segments: Sequence[int]) -> np.ndarray:
    """int64, for each of ``values``: 1 for void, 2.. for ``segments``, 0 for any other id."""
    if len(set(segments)) != len(segments) or not all(0 < segment <= LARGEST_ID for segment in segments):
        raise DataError(f"its segment ids are not distinct numbers in 1..{LARGEST_ID}")
    return places(values, [0, *segments]) + 1


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]} x {ids.shape[0]}"


@dataclass(frozen=True)
class OverlapReader:
    """Turns a pair of labels on disk into an `ImageOverlap`; can travel to a worker process."""

    gt_things: frozenset[int]
    pred_things: frozenset[int]
    with_runs: bool = True

    def __call__(self, pair: tuple[LabelledImage, LabelledImage]) -> ImageOverlap:
        """Read both PNGs of one photo.

        Raises:
            DataError: they contradict each other or their JSON; the message names the photo.
        """
        gt, pred = pair
        try:
            gt_ids, pred_ids = read_ids(gt.png), read_ids(pred.png)
            return image_overlap(gt_ids, pred_ids, gt.segments, pred.segments, self)
        except DataError as error:
            raise DataError(f"photo {gt.stem!r}: {error}") from error


def image_overlap(
    gt_ids: np.ndarray,
    pred_ids: np.ndarray,
    gt_info: Sequence[Mapping[str, Any]],
    pred_info: Sequence[Mapping[str, Any]],
    reader: OverlapReader,
) -> ImageOverlap:
    """The overlap of two panoptic maps, integer (H, W), with their ``segments_info``.

    Raises:
        DataError: the maps and the lists contradict each other.
    """
    gt_list, pred_list = [s["id"] for s in gt_info], [s["id"] for s in pred_info]
    table = overlap_table(gt_ids, pred_ids, gt_list, pred_list)
    counted = table[:, 1:].sum(axis=0)
    if not counted.all():
        missing = pred_list[int(np.flatnonzero(counted == 0)[0])]
        raise DataError(f"its label has no pixel of segment id {missing}, which the JSON lists")
    return described_overlap(table, gt_ids, gt_info, pred_info, reader)


def described_overlap(
    table: np.ndarray,
    gt_ids: np.ndarray,
    gt_info: Sequence[Mapping[str, Any]],
    pred_info: Sequence[Mapping[str, Any]],
    reader: OverlapReader,
) -> ImageOverlap:
    """A table int64 (G+1, P+1) with what the ``segments_info`` of both sides say, and the codes of true things."""
    gt_list = [segment["id"] for segment in gt_info]
    gt = Segments.from_info(gt_info, reader.gt_things)
    pred = Segments.from_info(pred_info, reader.pred_things)
    runs: tuple[dict[str, Any] | None, ...] = ()
    if reader.with_runs:
        things = [segment for segment, isthing in zip(gt_list, gt.isthing, strict=True) if isthing]
        codes = dict(zip(things, encode_segments(gt_ids, things), strict=True))
        runs = tuple(codes.get(segment) for segment in gt_list)
    gt = gt.with_area(np.where(gt.area < 0, table[1:].sum(axis=1), gt.area))
    return ImageOverlap(table, gt, pred.with_area(table[:, 1:].sum(axis=0)), runs)


def measure(
    pairs: Sequence[tuple[LabelledImage, LabelledImage]],
    reader: OverlapReader,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> list[ImageOverlap]:
    """Read all pairs, in order, in this process or in ``workers`` others; ``advance`` is called after each."""
    found = []
    if workers <= 1:
        for pair in pairs:
            found.append(reader(pair))
            advance()
        return found
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        for overlap in pool.map(reader, pairs, chunksize=16):
            found.append(overlap)
            advance()
    return found
