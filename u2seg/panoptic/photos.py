"""The photos of a panoptic dataset and their segments, kept as columns of numbers.

As objects of Python, a photo of ten segments takes kilobytes; as columns, 26 bytes a segment and some 120 with its
names. So the objects are made when they are asked for. Processes that are forked share the columns.

Shapes: ``N`` photos.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np

from u2seg import fields

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One entry of ``segments_info``. Area and box come from the PNG."""

    id: int
    category_id: int
    isthing: bool
    iscrowd: bool = False
    score: float = 1.0
    stated_area: float | None = None
    """Pixels that the file states, only to be compared with the PNG."""
    stated_box: tuple[int, ...] | None = None
    """x, y, width and height in pixels that the file states, for the same."""


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
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

    @property
    def stem(self) -> str:
        """File name of the photo without folder and ending."""
        return PurePosixPath(self.file_name).stem


class OnDemand(Sequence[T]):
    """Values that are made when they are asked for; a slice is a list of them."""

    @abstractmethod
    def at(self, place: int) -> T:
        """The value at ``place``, from 0."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.at(place) for place in range(*index.indices(len(self)))]
        return self.at(range(len(self))[index])


class Texts(OnDemand[str]):
    """Texts, one after another in one block of bytes."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, place: int) -> str:
        """The text at ``place``."""
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass")

    def append(self, text: str) -> None:
        """Add one at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))


class Ids(OnDemand[Any]):
    """Values that are whole numbers but for a few."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._others: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, place: int) -> Any:
        """The value at ``place``."""
        return self._others[place] if place in self._others else self._numbers[place]

    def append(self, value: Any) -> None:
        """Add one at the end."""
        small = type(value) is int and abs(value) <= fields.LARGEST_NUMBER
        if not small:
            self._others[len(self._numbers)] = value
        self._numbers.append(value if small else 0)


_NO_BOX = (-1, -1, -1, -1)


class Photos(OnDemand[LabelledPhoto]):
    """Photos with their segments, each made an object when it is asked for."""

    def __init__(self, photos: Iterable[LabelledPhoto] = ()) -> None:
        """Take up ``photos``, one at a time."""
        self.image_ids, self.file_names, self.labels = Ids(), Texts(), Texts()
        self._sizes, self._ends = array("i"), array("q", [0])
        self._ids, self._categories = array("i"), array("i")
        self._things, self._crowds = bytearray(), bytearray()
        self._scores, self._areas, self._boxes = array("d"), array("d"), array("i")
        for photo in photos:
            self.image_ids.append(photo.image_id)
            self.file_names.append(photo.file_name)
            self.labels.append(photo.label)
            self._sizes.extend((photo.height, photo.width))
            for segment in photo.segments:
                self._ids.append(segment.id)
                self._categories.append(segment.category_id)
                self._things.append(segment.isthing)
                self._crowds.append(segment.iscrowd)
                self._scores.append(segment.score)
                self._areas.append(np.nan if segment.stated_area is None else segment.stated_area)
                self._boxes.extend(segment.stated_box or _NO_BOX)
            self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: Any) -> Any:
        photos = super().__getitem__(index)
        return Photos(photos) if isinstance(index, slice) else photos

    def at(self, place: int) -> LabelledPhoto:
        """The photo at ``place``."""
        segments = self._segments(self._ends[place], self._ends[place + 1])
        names = self.image_ids[place], self.file_names[place]
        return LabelledPhoto(*names, *self.size(place), self.labels[place], segments)

    def size(self, place: int) -> tuple[int, int]:
        """Height and width in pixels of the photo at ``place``."""
        return self._sizes[2 * place], self._sizes[2 * place + 1]

    def stated_areas(self, places: Iterable[int]) -> np.ndarray:
        """What the file states as the areas of the segments of the photos at ``places``: float64 (n,), nan for none."""
        areas = array("d")
        for place in places:
            areas.extend(self._areas[self._ends[place] : self._ends[place + 1]])
        return np.array(areas, np.float64)

    def stated_boxes(self, places: Iterable[int]) -> np.ndarray:
        """The same of their boxes: x, y, width, height, int64 (n, 4), -1 for none."""
        boxes = array("i")
        for place in places:
            boxes.extend(self._boxes[4 * self._ends[place] : 4 * self._ends[place + 1]])
        return np.array(boxes, np.int64).reshape(-1, 4)

    def _segments(self, start: int, end: int) -> tuple[SegmentInfo, ...]:
        part = slice(start, end)
        columns = (self._ids, self._categories, map(bool, self._things[part]), map(bool, self._crowds[part]))
        areas = (None if area != area else area for area in self._areas[part])
        boxes = (tuple(self._boxes[4 * row : 4 * row + 4]) for row in range(start, end))
        stated = (areas, (None if box == _NO_BOX else box for box in boxes))
        return tuple(map(SegmentInfo, columns[0][part], columns[1][part], *columns[2:], self._scores[part], *stated))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Photos) and len(self) == len(other)
        return same and all(mine == theirs for mine, theirs in zip(self, other, strict=True))  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]


def refuse_duplicates(values: Sequence[Any], what: str) -> None:
    """`u2seg.fields.refuse_duplicates` in eight bytes a value, unless there is a duplicate to be found."""
    hashes = np.fromiter(map(hash, values), np.int64, len(values))
    if len(np.unique(hashes)) < len(hashes):
        fields.refuse_duplicates(values, what)
