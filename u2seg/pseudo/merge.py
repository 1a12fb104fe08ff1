"""Things over stuff: one panoptic label from masks, their clusters and a stuff map (U2Seg, section 3.2).

Shapes: ``H, W`` pixels; ``N`` masks; ``K`` thing clusters; ``S`` stuff classes.
"""

from __future__ import annotations

import numpy as np

from u2seg.errors import DataError
from u2seg.images import enlarge
from u2seg.structures import STUFF_VOID, LabelSpace, MaskSet, PanopticLabel, Segment


def merge_segments(
    things: MaskSet,
    clusters: np.ndarray,
    stuff: np.ndarray,
    space: LabelSpace,
    *,
    max_stuff_overlap: float = 0.7,
    min_area: float = 0.0,
    min_visible: float = 0.0,
    order: str = "area",
    size: tuple[int, int] | None = None,
) -> tuple[PanopticLabel, np.ndarray]:
    """Paint things one over another, and stuff where no thing is.

    Args:
        things: masks bool (N, H, W).
        clusters: int (N,) in [0, K).
        stuff: uint8 (H, W) in [0, S), 255 where there is none.
        space: numbers the categories.
        max_stuff_overlap: a stuff class is dropped where things cover more than this share of its area in the image.
        min_area: smallest visible segment that is kept, share of the image's area.
        min_visible: a thing is dropped where others hide more than one minus this share of it.
        order: "area" paints from large to small, so that small ones stay on top (the paper); "score" paints the best
            last, so that it stays on top.
        size: height and width in pixels of the label, if other than those of the masks.

    Returns:
        The label, and int64 (N,) with the segment id of each mask, 0 where it is not (or too little) visible.

    Raises:
        DataError: shapes or values contradict each other.
    """
    _check(things, clusters, stuff, space)
    smallest = min_area * stuff.size
    areas = things.masks.sum(axis=(1, 2))
    sequence = np.argsort(-areas if order == "area" else things.scores, kind="stable")
    painted, kept = _paint_visible(things, sequence, np.maximum(max(smallest, 1), min_visible * areas))
    stuff_classes = _visible_stuff(stuff, painted > 0, max_stuff_overlap, smallest)
    categories = [0, *(space.thing_category(clusters[index]) for index in kept)]
    segment_of = np.zeros(len(things), np.int64)
    segment_of[kept] = np.arange(1, len(kept) + 1)
    ids = np.append(0, segment_of).astype(np.int32)[painted]
    for stuff_class in stuff_classes:
        ids[(stuff == stuff_class) & (painted == 0)] = len(categories)
        categories.append(space.stuff_category(stuff_class))
    ids = enlarge(ids, *size) if size else ids
    scores = [0.0, *things.scores[kept].tolist(), *(1.0 for _ in stuff_classes)]
    label = PanopticLabel(ids, measure_segments(ids, categories, scores, space))
    present = [segment.id for segment in label.segments]
    return label, np.where(np.isin(segment_of, present), segment_of, 0)


def _check(things: MaskSet, clusters: np.ndarray, stuff: np.ndarray, space: LabelSpace) -> None:
    if stuff.dtype != np.uint8 or stuff.ndim != 2 or things.masks.shape[1:] != stuff.shape:
        raise DataError(f"stuff must be uint8 {things.masks.shape[1:]}, not {stuff.dtype} {stuff.shape}")
    if clusters.shape != (len(things),) or ((clusters < 0) | (clusters >= space.num_things)).any():
        raise DataError(f"clusters must be ({len(things)},) in [0, {space.num_things})")
    if ((stuff != STUFF_VOID) & (stuff >= space.num_stuff)).any():
        raise DataError(f"stuff must lie in [0, {space.num_stuff}) or be {STUFF_VOID}")


def _paint_visible(things: MaskSet, sequence: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint masks in ``sequence``; those with fewer visible pixels than ``least`` float64 (N,) are dropped.

    Returns:
        1 + index of the mask on top, int32 (H, W), 0 where there is none; and indices int64 of those that are kept.
    """
    painted = _paint(things, sequence)
    keep = np.bincount(painted.ravel(), minlength=len(things) + 1)[1:] >= least
    if not keep.all():
        # What a dropped mask hid comes to light again, so the others only grow.
        painted = _paint(things, sequence[keep[sequence]])
    return painted, np.flatnonzero(keep)


def _paint(things: MaskSet, sequence: np.ndarray) -> np.ndarray:
    """int32 (H, W): 1 + index of the mask on top, 0 where there is none; masks are painted in ``sequence``."""
    painted = np.zeros(things.masks.shape[1:], np.int32)
    for index in sequence:
        painted[things.masks[index]] = index + 1
    return painted


def _visible_stuff(stuff: np.ndarray, covered: np.ndarray, max_overlap: float, smallest: float) -> list[int]:
    """The stuff classes that stay, in order."""
    total = np.bincount(stuff.ravel(), minlength=256)
    visible = np.bincount(stuff[~covered], minlength=256)
    keep = (visible > 0) & (visible >= smallest) & (total - visible <= max_overlap * total)
    return [int(label) for label in np.flatnonzero(keep[:STUFF_VOID])]


def measure_segments(
    ids: np.ndarray, categories: list[int], scores: list[float], space: LabelSpace
) -> tuple[Segment, ...]:
    """The segments of a panoptic map ``ids`` int32 (H, W); ids that no pixel has are left out.

    ``categories`` and ``scores`` in [0, 1] are indexed by id, and so have an entry for 0, void.
    """
    from scipy.ndimage import find_objects

    areas = np.bincount(ids.ravel(), minlength=len(categories))
    segments = []
    for index, box in enumerate(find_objects(ids), start=1):
        if box is None:
            continue
        rows, columns = box
        bbox = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        category = categories[index]
        segments.append(Segment(index, category, space.is_thing(category), int(areas[index]), bbox, scores[index]))
    return tuple(segments)
