"""One picture of a few photos beside their labels, for a README.

Columns: photo, things, stuff, panoptic. A row per photo, all of one width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, replacing
from u2seg.images import read_image
from u2seg.panoptic import Category
from u2seg.report.draw import Layer
from u2seg.report.labels import VIEWS, Labels, read_annotated

GAP, HEADING = 8, 34
"""Pixels between panels, and above them."""


def render_overview(
    dataset_dir: str | os.PathLike[str],
    images: int,
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    panel: int = 360,
) -> Path:
    """Write a PNG with a row of photo, things, stuff and panoptic label for each of a few photos.

    Args:
        dataset_dir: folder with ``panoptic.json``.
        images: how many photos to show, evenly spread over the dataset.
        path: the PNG.
        image_root: where the photos lie now, if they moved.
        panel: width of one panel in pixels.

    Raises:
        UsageError: no such dataset, or nothing of it can be read.
    """
    dataset, annotations = read_annotated(dataset_dir, image_root)
    rows, reason = [], "the dataset has no photos"
    count = min(max(images, 0), len(annotations))
    for index in (int((place + 0.5) * len(annotations) / count) for place in range(count)):
        photo = dataset.photos[index]
        try:
            picture = Image.fromarray(read_image(dataset.photo_path(photo)))
            labels = Labels(dataset, photo, annotations[index])
        except DataError as error:
            reason = f"{photo.file_name}: {error}"
            continue
        w, h = panel, max(1, round(panel * photo.height / photo.width))
        layers = [labels.layer(view, (2 * w, 2 * h), max(w, h)) for view in VIEWS]
        rows.append((picture.resize((w, h), Image.Resampling.LANCZOS, reducing_gap=3.0), layers))
    if not rows:
        raise UsageError(f"no overview of {dataset_dir}: {reason}")
    with in_words(Path(path)), replacing(Path(path)) as temporary:
        _draw_sheet(rows, {category.id: category for category in dataset.categories}, temporary)
    return Path(path)


def _draw_sheet(
    rows: Sequence[tuple[Image.Image, Sequence[Layer]]], categories: Mapping[int, Category], path: Path
) -> None:
    """Write ``rows`` of photos and their layers, which have twice the photo's size."""
    from matplotlib.figure import Figure

    panel = rows[0][0].width
    width, height = 4 * (panel + GAP) - GAP, HEADING + sum(photo.height + GAP for photo, _ in rows) - GAP
    figure = Figure((width / 100, height / 100), dpi=100)
    bottom = height - HEADING
    for place, (photo, layers) in enumerate(rows):
        bottom -= photo.height + GAP * (place > 0)
        for column, (title, layer) in enumerate(zip(("photo", *VIEWS), (None, *layers), strict=True)):
            left = column * (panel + GAP)
            axes = figure.add_axes((left / width, bottom / height, panel / width, photo.height / height))
            axes.set_axis_off()
            axes.imshow(photo, aspect="auto", extent=(0, 1, 1, 0))
            if place == 0:
                axes.set_title(title, color="#282c32")
            if layer is not None:
                axes.imshow(layer.to_rgba(), aspect="auto", extent=(0, 1, 1, 0))
                _write_names(axes, layer, categories)
    figure.savefig(path)


def _write_names(axes: Any, layer: Layer, categories: Mapping[int, Category]) -> None:
    """Write the names of regions where they don't cover each other."""
    for mark in layer.marks:
        if not mark.crowded:
            category = categories[mark.category_id]
            color = tuple(part / 255 for part in category.color)
            frame = {"boxstyle": "round,pad=0.25", "facecolor": (0.04, 0.05, 0.06, 0.75), "edgecolor": color}
            style = {"ha": "center", "va": "center", "color": "white", "size": 7.5, "parse_math": False}
            axes.text(mark.x, mark.y, category.name, bbox=frame, **style)
