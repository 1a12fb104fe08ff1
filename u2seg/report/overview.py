"""One picture of a few photos beside their labels, for a README.

Columns: photo, things, stuff, panoptic. A row per photo, all of one width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from u2seg.errors import DataError, UsageError
from u2seg.images import read_image
from u2seg.report.draw import Layer
from u2seg.report.layers import VIEWS, Labels
from u2seg.report.source import Category, Entry, read_set
from u2seg.report.work import write_whole

GAP, HEADING = 8, 34
"""Pixels between panels, and above them."""


def render_overview(
    dataset_dir: str | os.PathLike[str],
    images: int | Sequence[int],
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    panel: int = 360,
) -> Path:
    """Write a PNG with a row of photo, things, stuff and panoptic label for each of a few photos.

    Args:
        dataset_dir: folder with ``panoptic.json``.
        images: ``image_id`` of each photo, or how many to take, evenly spread over the dataset.
        path: the PNG.
        image_root: where the photos lie now, if they moved.
        panel: width of one panel in pixels.

    Raises:
        UsageError: no such dataset or image, or nothing of it can be read.
    """
    dataset = read_set(Path(dataset_dir), Path(image_root) if image_root else None)
    rows = []
    reason = "the dataset has no photos"
    for entry in _choose(dataset.entries, images):
        try:
            rows.append(_row(entry, dataset.categories, panel))
        except DataError as error:
            reason = f"{entry.name}: {error}"
    if not rows:
        raise UsageError(f"no overview of {dataset_dir}: {reason}")
    sheet = _sheet(rows, panel)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda place: sheet.save(place, "PNG", optimize=True))
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror or error}") from error
    return path


def _choose(entries: Sequence[Entry], images: int | Sequence[int]) -> list[Entry]:
    if isinstance(images, int):
        count = min(max(images, 0), len(entries))
        return [entries[int((index + 0.5) * len(entries) / count)] for index in range(count)]
    known = {entry.image_id: entry for entry in entries}
    missing = [index for index in images if index not in known]
    if missing:
        raise UsageError(f"the dataset has no image {missing[0]}; ids are like {list(known)[:5]}")
    return [known[index] for index in images]


def _row(entry: Entry, categories: Mapping[int, Category], panel: int) -> list[Image.Image]:
    size = (panel, max(1, round(panel * entry.height / max(1, entry.width))))
    photo = Image.fromarray(read_image(entry.photo)).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    labels = Labels(entry, categories)
    drawn = [photo]
    for view in VIEWS:
        layer = labels.layer(view, (2 * size[0], 2 * size[1]), max(size))
        over = layer.to_rgba().resize(size, Image.Resampling.LANCZOS)
        picture = Image.alpha_composite(photo.convert("RGBA"), over).convert("RGB")
        _name(picture, layer, categories)
        drawn.append(picture)
    return drawn


def _name(picture: Image.Image, layer: Layer, categories: Mapping[int, Category]) -> None:
    """Write the names of regions where they don't cover each other."""
    draw = ImageDraw.Draw(picture, "RGBA")
    face = ImageFont.load_default(size=11)
    for mark in layer.marks:
        if mark.crowded:
            continue
        category = categories[mark.category_id]
        half = draw.textlength(category.name, font=face) / 2 + 4
        x, y = mark.x * picture.width, mark.y * picture.height
        draw.rounded_rectangle((x - half - 3, y - 8, x + half, y + 8), 3, fill=(10, 12, 16, 190))
        draw.rectangle((x - half - 3, y - 8, x - half, y + 8), fill=category.color)
        draw.text((x, y), category.name, font=face, fill=(255, 255, 255), anchor="mm")


def _sheet(rows: Sequence[Sequence[Image.Image]], panel: int) -> Image.Image:
    columns = len(rows[0])
    height = HEADING + sum(row[0].height + GAP for row in rows) - GAP
    sheet = Image.fromarray(np.full((height, columns * (panel + GAP) - GAP, 3), 255, np.uint8))
    draw = ImageDraw.Draw(sheet)
    face = ImageFont.load_default(size=17)
    for place, title in enumerate(("photo", *VIEWS)):
        draw.text((place * (panel + GAP) + panel / 2, HEADING / 2), title, font=face, fill=(40, 44, 50), anchor="mm")
    top = HEADING
    for row in rows:
        for place, picture in enumerate(row):
            sheet.paste(picture, (place * (panel + GAP), top))
        top += row[0].height + GAP
    return sheet
