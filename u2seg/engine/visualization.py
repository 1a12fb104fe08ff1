"""Segments drawn over a photo: filled with the colour of their class, outlined, named.

Shapes: ``H, W`` photo pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from u2seg.engine.names import ClassNames
from u2seg.errors import UsageError
from u2seg.files import in_words, replacing
from u2seg.report.draw import DIMMED, Layer, Region, draw_layer
from u2seg.structures import Segment

MARK_FACE = 11
"""Size in pixels of the face that `draw_layer` reckons with."""


def draw_segments(
    image: np.ndarray,
    panoptic: np.ndarray,
    segments: Sequence[Segment],
    names: ClassNames,
    text: bool = True,
    grey: bool = False,
) -> np.ndarray:
    """Draw a panoptic map over its photo, uint8 (H, W, 3) RGB.

    Args:
        image: uint8 (H, W, 3) RGB; left as it is.
        panoptic: int32 (H, W) segment ids.
        segments: those to draw.
        names: names and colours of the classes.
        text: whether to name the segments, where there is room.
        grey: whether to show the photo in grey where there is no segment.
    """
    place_of_id = np.full(int(panoptic.max(initial=0)) + 1, DIMMED, np.int32)
    for place, segment in enumerate(segments, start=1):
        place_of_id[segment.id] = place
    regions = [
        Region(s.category_id, names.color(s.category_id), names[s.category_id], s.area / panoptic.size, s.score)
        for s in segments
    ]
    face = max(MARK_FACE, round(max(panoptic.shape) / 55))
    layer = draw_layer(place_of_id[panoptic], regions, max(1, max(panoptic.shape) * MARK_FACE // face))
    palette = layer.palette.copy()
    palette[DIMMED, 3] = 0  # the photo shows where there is no segment
    if grey:
        luminance = np.asarray(Image.fromarray(image).convert("L"))
        image = np.where(panoptic[..., None] > 0, image, luminance[..., None])
    ground = Image.fromarray(image).convert("RGBA")
    picture = Image.alpha_composite(ground, replace(layer, palette=palette).to_rgba()).convert("RGB")
    if text:
        _write_names(picture, layer, names, face)
    return np.asarray(picture)


def _write_names(picture: Image.Image, layer: Layer, names: ClassNames, size: int) -> None:
    """Write each mark's name in or near its region, large regions first, none over another."""
    draw = ImageDraw.Draw(picture, "RGBA")
    face = ImageFont.load_default(size=size)
    occupied: list[tuple[float, float, float, float]] = []  # left, top, right, bottom, in pixels
    for mark in layer.marks:
        name = names[mark.category_id]
        if names.space.is_thing(mark.category_id):
            name = f"{name} {mark.score:.0%}"
        half = draw.textlength(name, font=face) / 2 + size / 3
        x = min(max(mark.x * picture.width, half), max(half, picture.width - half))
        for lines in (0, 1, -1, 2, -2):
            y = mark.y * picture.height + lines * size * 1.6
            box = (x - half, y - size * 0.75, x + half, y + size * 0.75)
            if lines and (box[1] < 0 or box[3] > picture.height):
                continue
            if all(
                box[2] <= left or right <= box[0] or box[3] <= top or bottom <= box[1]
                for left, top, right, bottom in occupied
            ):
                occupied.append(box)
                draw.rounded_rectangle(box, size / 4, fill=(10, 12, 16, 180))
                draw.rectangle((box[0], box[1], box[0] + size / 4, box[3]), fill=names.color(mark.category_id))
                draw.text((x + size / 8, y), name, font=face, fill=(255, 255, 255), anchor="mm")
                break


def save_picture(picture: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write ``picture`` uint8 (H, W, 3) RGB to ``path``, whole or not at all, and return the path.

    Raises:
        UsageError: the ending names no format of pictures, or the file can't be written.
    """
    path = Path(path).expanduser()
    if not path.suffix:
        path = path.with_name(f"{path.name}.png")
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise UsageError(f"{path}: no picture can be written as {path.suffix!r}; use .png or .jpg")
    options = {"quality": 92} if kind == "JPEG" else {}
    with in_words(path), replacing(path) as part:
        Image.fromarray(picture).save(part, format=kind, **options)
    return path
