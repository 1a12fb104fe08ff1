"""Whether a JSON and its PNGs say the same. The PNG is the label; what the JSON repeats of it is only compared.

Shapes: ``H, W`` image pixels; ``n`` segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from u2seg.errors import DataError
from u2seg.panoptic.photos import SegmentInfo
from u2seg.panoptic.reading import warn_once


def warn_of_areas(json_file: Path, segments: Iterable[SegmentInfo], areas: Sequence[int] | np.ndarray) -> None:
    """Log, once for each file, how many of its ``segments`` have other ``areas`` (n,) in the PNG than it states."""
    stated = np.fromiter((np.nan if s.stated_area is None else s.stated_area for s in segments), np.float64)
    other = int(((stated != areas) & ~np.isnan(stated)).sum())
    empty = int((np.asarray(areas) == 0).sum())
    if other:
        warn_once(f"{json_file}: 'area' of {other} of {len(stated)} segments disagrees with the PNG, which counts")
    if empty:
        warn_once(f"{json_file}: {empty} of {len(stated)} segments have no pixel in the PNG")


def segment_areas(ids: np.ndarray, listed: Sequence[int], png: str | Path) -> np.ndarray:
    """Pixels int64 (n,) of each of the ``listed`` segment ids in the map ``ids`` int32 (H, W), read from ``png``.

    Raises:
        DataError: the map holds an id that is not listed.
    """
    flat = ids.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    values, inverse = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(inverse, weights=np.diff(starts, append=flat.size))
    area_of = dict(zip(values.tolist(), pixels.astype(int).tolist(), strict=True))
    unlisted = sorted(area_of.keys() - {0, *listed})
    if unlisted:
        hint = "" if area_of.keys() & set(listed) else "; none of its ids is listed: are its channels in RGB order?"
        raise DataError(f"{png} holds segment id {unlisted[0]}, which the JSON does not list{hint}")
    return np.array([area_of.get(number, 0) for number in listed], np.int64)
