"""One picture of a few photos beside their labels, for a README.

Columns: photo, things, stuff, panoptic. A row per photo, all of one width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, replacing
from u2seg.images import read_image
from u2seg.panoptic import Category
from u2seg.report.draw import Layer
from u2seg.report.labels import VIEWS, Labels, read_annotated


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
            size = (2 * panel, max(1, round(2 * panel * photo.height / photo.width)))
            layers = [labels.layer(view, size, max(size) // 2) for view in VIEWS]
        except DataError as error:
            reason = f"{photo.file_name}: {error}"
            continue
        rows.append((picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), layers))
    if not rows:
        raise UsageError(f"no overview of {dataset_dir}: {reason}")
    with in_words(Path(path)), replacing(Path(path)) as temporary:
        _draw_sheet(rows, {category.id: category for category in dataset.categories}, panel / 100, temporary)
    return Path(path)


def _draw_sheet(
    rows: Sequence[tuple[Image.Image, Sequence[Layer]]], categories: Mapping[int, Category], side: float, path: Path
) -> None:
    """Write ``rows`` of photos and their layers, ``side`` inches a column; names don't cover each other."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ratios = [photo.height / photo.width for photo, _ in rows]
    figure = Figure(
        (4 * side, side * sum(ratios) + 0.4),
        dpi=100,
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.04, wspace=0, hspace=0),
    )
    grid = figure.subplots(len(rows), 4, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for axes, title in zip(grid[0], ("photo", *VIEWS), strict=True):
        axes.set_title(title, fontsize=11)
    panels = [(photo, layer) for photo, layers in rows for layer in (None, *layers)]
    for axes, (photo, layer) in zip(grid.flat, panels, strict=True):
        axes.set_axis_off()
        axes.imshow(photo)
        if layer is None:
            continue
        axes.imshow(layer.to_rgba())
        for mark in (mark for mark in layer.marks if not mark.crowded):
            category = categories[mark.category_id]
            edge = tuple(part / 255 for part in category.color)
            frame = {"boxstyle": "round,pad=0.25", "facecolor": (0.04, 0.05, 0.06, 0.75), "edgecolor": edge}
            style = {"ha": "center", "va": "center", "color": "white", "size": 7.5, "parse_math": False}
            axes.text(mark.x * photo.width, mark.y * photo.height, category.name, bbox=frame, **style)
    figure.savefig(path)
