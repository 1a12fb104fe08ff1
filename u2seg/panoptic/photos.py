"""The photos of a panoptic dataset and their segments, kept packed in few blocks of memory.

As objects of Python, a photo of ten segments takes kilobytes; as pickles, some 50 bytes a segment and 150 with its
names. The objects are made when they are asked for. Processes that are forked share the blocks.
"""

from __future__ import annotations

import pickle
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from u2seg import fields

T = TypeVar("T")


class SegmentInfo(NamedTuple):
    """One entry of ``segments_info``. Area and box come from the PNG."""

    id: int
    category_id: int
    isthing: bool
    iscrowd: bool = False
    score: float = 1.0
    stated: tuple[float | None, ...] = (None,) * 5
    """As `stated_numbers` gives it, only to be compared with the PNG."""


class LabelledPhoto(NamedTuple):
    """One photo and its label."""

    image_id: Any
    """A whole number, or text that is none."""
    file_name: str
    """Of the photo, below the image root, with slashes."""
    height: int
    width: int
    label: str
    """``file_name`` of the annotation: the PNG below the panoptic root."""
    segments: tuple[SegmentInfo, ...]


class OnDemand(Sequence[T]):
    """Values that are made when they are asked for; a slice is a list of them."""

    @abstractmethod
    def at(self, place: int) -> T:
        """The value at ``place``, from 0."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.at(place) for place in range(*index.indices(len(self)))]
        return self.at(range(len(self))[index])


class Packed(OnDemand[T]):
    """Values as pickles, one after another in one block of bytes."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, place: int) -> T:
        """The value at ``place``."""
        value: T = pickle.loads(self._bytes[self._ends[place] : self._ends[place + 1]])
        return value

    def append(self, value: T) -> None:
        """Add one at the end."""
        self._bytes += pickle.dumps(value, -1)
        self._ends.append(len(self._bytes))


class Photos(OnDemand[LabelledPhoto]):
    """Photos with their segments, each made an object when it is asked for."""

    def __init__(self, photos: Iterable[LabelledPhoto] = ()) -> None:
        """Take up ``photos``, one at a time."""
        self._columns: tuple[Packed[Any], ...] = tuple(Packed() for _ in LabelledPhoto._fields)
        self.image_ids, self.file_names, self._heights, self._widths, self.labels, _ = self._columns
        for photo in photos:
            for column, value in zip(self._columns, photo, strict=True):
                column.append(value)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: Any) -> Any:
        photos = super().__getitem__(index)
        return Photos(photos) if isinstance(index, slice) else photos

    def at(self, place: int) -> LabelledPhoto:
        """The photo at ``place``."""
        return LabelledPhoto(*(column.at(place) for column in self._columns))

    def size(self, place: int) -> tuple[int, int]:
        """Height and width in pixels of the photo at ``place``."""
        return self._heights.at(place), self._widths.at(place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Photos) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def stated_numbers(entry: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Area, x, y, width and height in pixels that an ``entry`` of a JSON file states, None where it gives no number."""
    box = entry.get("bbox")
    parts = box if isinstance(box, list) and len(box) == 4 else [None] * 4
    return tuple(_as_number(value) for value in (entry.get("area"), *parts))


def _as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # a redundant field is no reason to refuse a file
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number  # which takes less memory


def misstated(stated: Sequence[Any], area: np.ndarray, box: np.ndarray | float = np.nan) -> np.ndarray:
    """bool (n,): which `stated_numbers` of n masks are more than a pixel from their ``area`` (n,) or ``box`` (n, 4).

    A box that is nan is not compared.
    """
    numbers = np.array(stated, np.float64).reshape(-1, 5)
    other: np.ndarray = (np.abs(numbers[:, 0] - area) > 1) | (np.abs(numbers[:, 1:] - box) > 1).any(axis=1)
    return other


def refuse_duplicates(values: Sequence[Any], what: str) -> None:
    """`u2seg.fields.refuse_duplicates` in eight bytes a value, unless there is a duplicate to be found."""
    hashes = np.fromiter(map(hash, values), np.int64, len(values))
    if len(np.unique(hashes)) < len(hashes):
        fields.refuse_duplicates(values, what)
