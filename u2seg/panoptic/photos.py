"""The photos of a panoptic dataset and their segments, kept as numbers in few blocks of memory.

As objects of Python, a photo of ten segments takes kilobytes; so, 42 bytes a segment and some 120 with its names. The
objects are made when they are asked for. Processes that are forked share the numbers.

Shapes: ``N`` photos; ``n`` segments.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


_ROW = np.dtype(
    {
        "names": ["id", "category", "isthing", "iscrowd", "score", "area", "x", "y", "width", "height"],
        "formats": ["i4", "i4", "?", "?", "f8", "f8", "i4", "i4", "i4", "i4"],
    }
)
"""A segment as it is kept; area and box are those that the file states, or nan and -1."""
_NO_BOX = (-1, -1, -1, -1)


class Photos(OnDemand[LabelledPhoto]):
    """Photos with their segments, each made an object when it is asked for."""

    def __init__(self, photos: Iterable[LabelledPhoto] = ()) -> None:
        """Take up ``photos``, one at a time."""
        self.image_ids, self.file_names, self.labels = Ids(), Texts(), Texts()
        self._sizes, self._ends, self._rows = array("i"), array("q", [0]), bytearray()
        for photo in photos:
            self.image_ids.append(photo.image_id)
            self.file_names.append(photo.file_name)
            self.labels.append(photo.label)
            self._sizes.extend((photo.height, photo.width))
            rows = [
                (s.id, s.category_id, s.isthing, s.iscrowd, s.score, s.stated_area, *(s.stated_box or _NO_BOX))
                for s in photo.segments
            ]
            self._rows += np.array(rows, _ROW).tobytes()
            self._ends.append(self._ends[-1] + len(rows))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: Any) -> Any:
        photos = super().__getitem__(index)
        return Photos(photos) if isinstance(index, slice) else photos

    def at(self, place: int) -> LabelledPhoto:
        """The photo at ``place``."""
        segments = []
        for number, category, isthing, crowd, score, area, *box in self._segments(place).tolist():
            stated_area, stated_box = None if area != area else area, tuple(box) if box[0] >= 0 else None
            segments.append(SegmentInfo(number, category, isthing, crowd, score, stated_area, stated_box))
        names = self.image_ids[place], self.file_names[place]
        return LabelledPhoto(*names, *self.size(place), self.labels[place], tuple(segments))

    def size(self, place: int) -> tuple[int, int]:
        """Height and width in pixels of the photo at ``place``."""
        return self._sizes[2 * place], self._sizes[2 * place + 1]

    def _segments(self, place: int) -> np.ndarray:
        """`_ROW` (n,) of the photo at ``place``."""
        start, end = (_ROW.itemsize * self._ends[row] for row in (place, place + 1))
        return np.frombuffer(self._rows[start:end], _ROW)

    def stated_areas(self, places: Sequence[int]) -> np.ndarray:
        """What the file states as the areas of the segments of the photos at ``places``: float64 (n,), nan for none."""
        return np.frombuffer(self._rows, _ROW)["area"][self._row_numbers(places)]

    def stated_boxes(self, places: Sequence[int]) -> np.ndarray:
        """The same of their boxes: x, y, width, height, int64 (n, 4), -1 for none."""
        rows, numbers = np.frombuffer(self._rows, _ROW), self._row_numbers(places)
        boxes = np.empty((len(numbers), 4), np.int64)
        for column, name in enumerate(("x", "y", "width", "height")):
            boxes[:, column] = rows[name][numbers]
        return boxes

    def _row_numbers(self, places: Sequence[int]) -> np.ndarray:
        """int64 (n,), which rows the segments of the photos at ``places`` are, one photo after another."""
        ends, photos = np.frombuffer(self._ends, np.int64), np.asarray(places, np.int64)
        counts = ends[photos + 1] - ends[photos]
        numbers = np.arange(counts.sum())
        numbers += np.repeat(ends[photos] - (np.cumsum(counts) - counts), counts)
        return numbers

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Photos) and len(self) == len(other)
        return same and all(mine == theirs for mine, theirs in zip(self, other, strict=True))  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]


def refuse_duplicates(values: Sequence[Any], what: str) -> None:
    """`u2seg.fields.refuse_duplicates` in eight bytes a value, unless there is a duplicate to be found."""
    hashes = np.fromiter(map(hash, values), np.int64, len(values))
    if len(np.unique(hashes)) < len(hashes):
        fields.refuse_duplicates(values, what)
