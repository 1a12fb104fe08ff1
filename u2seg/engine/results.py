"""What a model says about one photo: as plain arrays, by the names of its classes, and as a picture.

Shapes: ``H, W`` photo pixels; ``n`` segments, which share no pixel; ``N`` instances, which may overlap.
``K`` thing classes, ``S`` stuff classes; category ids 1..K and K+1..K+S, as everywhere in files.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.fitting import read_matching
from u2seg.evaluation.matching import MANY_TO_ONE
from u2seg.files import in_words, replacing
from u2seg.report.draw import DIMMED, Layer, Region, draw_layer
from u2seg.structures import LabelSpace, Segment, category_color

MARK_FACE = 11
"""Size in pixels of the face that `draw_layer` reckons with."""


@dataclass(frozen=True)
class ClassNames:
    """Names and colours of the classes of one model."""

    space: LabelSpace
    known: Mapping[int, str] = field(default_factory=dict)
    """Names by category id; a class that has none is called by its id."""

    def __getitem__(self, category_id: int) -> str:
        return self.known.get(int(category_id), str(int(category_id)))

    def caption(self, category_id: int, score: float) -> str:
        """What stands at a segment in a picture: its name and, of a thing, ``score`` in [0, 1]."""
        return f"{self[category_id]} {score:.0%}" if self.space.is_thing(category_id) else self[category_id]

    def written_id(self, category_id: int) -> int:
        """Category id in files: clusters that were matched to one class are one category there, the first of them."""
        return self._first_of_name[self[category_id], self.space.is_thing(category_id)]

    def color(self, category_id: int) -> tuple[int, int, int]:
        """RGB, 0..255; one colour for all classes of one name and kind."""
        red, green, blue = category_color(self.written_id(category_id))
        return red, green, blue

    @cached_property
    def _first_of_name(self) -> dict[tuple[str, bool], int]:
        """Smallest category id of each name, for things (True) and stuff (False)."""
        ids = range(self.space.num_things + self.space.num_stuff, 0, -1)
        return {(self[index], self.space.is_thing(index)): index for index in ids}

    def categories(self) -> list[dict[str, Any]]:
        """The ``categories`` of a COCO panoptic JSON, with the known names and the colours that are drawn.

        Those that `written_id` gives; no two of a kind have one name, which no reader of such files would take.
        """
        return [
            {**entry, "name": self[entry["id"]], "color": list(self.color(entry["id"]))}
            for entry in self.space.categories()
            if self.written_id(entry["id"]) == entry["id"]
        ]

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's visualizers read, in its contiguous ids: things from 0, stuff from 1."""
        ids = range(1, self.space.num_things + self.space.num_stuff + 1)
        things, stuff = ids[: self.space.num_things], ids[self.space.num_things :]
        return {
            "thing_classes": [self[index] for index in things],
            "thing_colors": [list(self.color(index)) for index in things],
            "stuff_classes": ["things", *(self[index] for index in stuff)],
            "stuff_colors": [[255, 255, 255], *(list(self.color(index)) for index in stuff)],
        }


def names_from_matching(path: str | os.PathLike[str], space: LabelSpace, policy: str = "") -> ClassNames:
    """Names of the classes that the clusters of ``space`` were matched to, from a file of ``--save-matching``.

    Of its matchings, that of ``policy`` counts; by default ``many_to_one``, or else the first.

    Raises:
        UsageError: there is no such file, or no such policy in it.
        DataError: it is no saved matching, or one for other clusters.
    """
    classes, matchings = read_matching(Path(path))
    default = MANY_TO_ONE if MANY_TO_ONE in matchings else next(iter(matchings), "")
    class_of_cluster = lookup(f"matching policy in {path}", policy or default, matchings)
    matched = {cluster: classes[index] for cluster, index in class_of_cluster.items() if index is not None}
    crossed = any(isthing != space.is_thing(cluster) for cluster, (_, isthing) in matched.items())
    if crossed or class_of_cluster.keys() != set(range(1, space.num_things + space.num_stuff + 1)):
        raise DataError(
            f"{path} matches {len(class_of_cluster)} clusters, which are not those of the model: "
            f"{space.num_things} of things, then {space.num_stuff} of stuff"
        )
    return ClassNames(space, {cluster: name for cluster, (name, _) in matched.items()})


@dataclass(frozen=True)
class PredictedSegment(Segment):
    """One region of the panoptic map.

    ``score`` in [0, 1] is the detector's for things; for stuff the mean probability of the class over the region.
    """

    name: str = ""


@dataclass(frozen=True, eq=False)
class Instances:
    """Detected things, best first; those that the panoptic map has no place for are here too."""

    masks: np.ndarray  # bool (N, H, W)
    boxes: np.ndarray  # float32 (N, 4): left, top, right, bottom, in pixels
    scores: np.ndarray  # float32 (N,) in [0, 1]
    category_ids: np.ndarray  # int64 (N,), 1..K
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """One photo, segmented. A notebook shows it as a picture."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    panoptic: np.ndarray  # int32 (H, W): segment id of each pixel, 0 where there is none
    segments: tuple[PredictedSegment, ...]
    instances: Instances
    names: ClassNames
    grey: bool = False  # Whether the picture shows the photo in grey where there is no segment

    def draw(self, text: bool = True) -> np.ndarray:
        """The photo, uint8 (H, W, 3) RGB, with its segments filled with the colour of their class and outlined.

        With ``text``, segments are named where there is room.
        """
        place_of_id = np.full(int(self.panoptic.max(initial=0)) + 1, DIMMED, np.int32)
        place_of_id[[segment.id for segment in self.segments]] = np.arange(1, len(self.segments) + 1)
        regions = []
        for s in self.segments:
            caption, color = self.names.caption(s.category_id, s.score), self.names.color(s.category_id)
            regions.append(Region(s.category_id, color, caption, s.area / self.panoptic.size, s.score))
        longest = max(self.panoptic.shape)
        face = max(MARK_FACE, round(longest / 55))  # pixels
        layer = draw_layer(place_of_id[self.panoptic], regions, max(1, longest * MARK_FACE // face))
        layer.palette[DIMMED, 3] = 0  # the photo shows where there is no segment
        image = self.image
        if self.grey:
            luminance = np.asarray(Image.fromarray(image).convert("L"))
            image = np.where(self.panoptic[..., None] > 0, image, luminance[..., None])
        picture = Image.alpha_composite(Image.fromarray(image).convert("RGBA"), layer.to_rgba()).convert("RGB")
        if text:
            _write_names(picture, layer, self.names, face)
        return np.asarray(picture)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what `draw` gives, whole or not at all, and return the path.

        The file's ending says in which format, ``.png`` if it has none.

        Raises:
            UsageError: the format is unknown, or the file can't be written.
        """
        path = Path(path).expanduser()
        if not path.suffix:
            path = path.with_name(f"{path.name}.png")
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind is None or kind not in Image.SAVE:
            raise UsageError(f"{path}: no picture can be written as {path.suffix!r}; use .png or .jpg")
        options = {"quality": 92} if kind == "JPEG" else {}
        with in_words(path), replacing(path) as part:
            Image.fromarray(self.draw()).save(part, format=kind, **options)
        return path

    get_image = draw
    """As Detectron2's visualizers call it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.draw()).save(file, format="PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        height, width = self.panoptic.shape
        names = [segment.name for segment in self.segments]
        return f"Prediction({width} x {height} pixels; segments: {', '.join(names) or 'none'})"


def _write_names(picture: Image.Image, layer: Layer, names: ClassNames, size: int) -> None:
    """Write the names of regions that have room for them, in a face of ``size`` pixels."""
    draw = ImageDraw.Draw(picture, "RGBA")
    face = ImageFont.load_default(size=size)
    for mark in layer.marks:
        if mark.crowded:
            continue
        text = names.caption(mark.category_id, mark.score)
        half = draw.textlength(text, font=face) / 2 + size / 3
        x = min(max(mark.x * picture.width, half), max(half, picture.width - half))
        y, left = mark.y * picture.height, x - half
        top, bottom = y - size * 0.75, y + size * 0.75
        draw.rounded_rectangle((left, top, x + half, bottom), size / 4, fill=(10, 12, 16, 180))
        draw.rectangle((left, top, left + size / 4, bottom), fill=names.color(mark.category_id))
        draw.text((x + size / 8, y), text, font=face, fill=(255, 255, 255), anchor="mm")
