"""What a panoptic dataset is in memory: categories, photos and their segments; pixels stay on disk.

Shapes: ``H, W`` image pixels; ``n`` segments of a photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.fields import inside
from u2seg.panoptic.codes import read_ids, segment_areas
from u2seg.panoptic.photos import LabelledPhoto, Photos
from u2seg.structures import LabelSpace

NO_SUPERCATEGORY = ("", "none", "default", "null", "undefined", "n/a")
"""What files say where there is none; some labelling tools write a word."""


@dataclass(frozen=True)
class Category:
    """One entry of ``categories``: a human class, or a cluster."""

    id: int
    name: str
    supercategory: str
    """Empty where the file gives none."""
    isthing: bool
    color: tuple[int, int, int]
    """RGB, 0..255"""


@dataclass(frozen=True)
class PanopticDataset:
    """A labelled set as its JSON describes it; no pixel is read."""

    json_file: Path
    image_root: Path
    panoptic_root: Path
    categories: tuple[Category, ...]
    """In rising order of id."""
    photos: Photos
    """Those that have an annotation, in the order of the annotations; any iterable of photos is taken."""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.photos, Photos):
            object.__setattr__(self, "photos", Photos(self.photos))

    @property
    def root(self) -> Path:
        """The dataset's directory."""
        return self.json_file.parent

    @cached_property
    def place(self) -> dict[Any, int]:
        """Image id to the place in ``photos``."""
        return {image_id: place for place, image_id in enumerate(self.photos.image_ids)}

    @cached_property
    def things(self) -> tuple[Category, ...]:
        """Thing categories, in rising order of id."""
        return tuple(category for category in self.categories if category.isthing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        """Stuff categories, in rising order of id."""
        return tuple(category for category in self.categories if not category.isthing)

    def without_photos(self) -> PanopticDataset:
        """The same with no photos: little to send to workers, to which each photo travels alone."""
        return replace(self, photos=Photos())

    def label_space(self) -> LabelSpace:
        """K and S of a dataset whose categories are numbered things 1..K, then stuff K+1..K+S.

        Raises:
            DataError: they are numbered otherwise.
        """
        space = LabelSpace(len(self.things), len(self.stuff))
        ordered = [category.id for category in (*self.things, *self.stuff)]
        if ordered != list(range(1, len(ordered) + 1)):
            raise DataError(f"{self.json_file}: categories are not numbered things 1..K, then stuff K+1..K+S")
        return space

    def check_supercategories(self, isthing: bool, remedy: str) -> None:
        """See that supercategories tell the things, or the stuff, apart.

        Raises:
            DataError: a category has none, or all have the same; the message ends in the ``remedy``.
        """
        kind = self.things if isthing else self.stuff
        for category in kind:
            if category.supercategory.lower() in NO_SUPERCATEGORY:
                raise DataError(f"{self.json_file}: category {category.name!r} has no supercategory; {remedy}")
        if len(kind) > 1 and len({category.supercategory for category in kind}) == 1:
            name = kind[0].supercategory
            raise DataError(
                f"{self.json_file}: all {len(kind)} {'things' if isthing else 'stuff categories'} have the one "
                f"supercategory {name!r}; {remedy}"
            )

    def photo_path(self, photo: LabelledPhoto) -> Path:
        """Where the photo itself lies, which may be anywhere: ``file_name`` may be absolute or lead upwards."""
        return self.image_root / photo.file_name

    def png_path(self, photo: LabelledPhoto) -> Path:
        """Where its panoptic PNG lies.

        Raises:
            DataError: not below the panoptic root.
        """
        return inside(self.panoptic_root, photo.label)

    def read_ids(self, photo: LabelledPhoto) -> np.ndarray:
        """Segment ids int32 (H, W) of ``photo``, 0 for none.

        Raises:
            DataError: the PNG is missing, broken, or of another size than the JSON says.
        """
        return read_ids(self.png_path(photo), (photo.height, photo.width), f"{self.json_file.name} says")

    def read_label(self, photo: LabelledPhoto) -> tuple[np.ndarray, np.ndarray]:
        """Segment ids int32 (H, W) of ``photo``, and pixels int64 (n,) of each of its segments.

        Raises:
            DataError: as of `read_ids`, or the PNG holds ids that are not listed.
        """
        ids = self.read_ids(photo)
        return ids, segment_areas(ids, [segment.id for segment in photo.segments], self.png_path(photo))
