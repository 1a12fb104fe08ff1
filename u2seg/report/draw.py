"""Regions to pictures: colour layers that lie over a photo, marks that name them, and crops.

Shapes: ``H, W`` photo pixels; ``h, w`` pixels of the picture that is drawn; ``R`` regions; ``C`` palette entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

DIMMED, HATCHED = 0, -1
"""Values of a region map where there is no region: not what this layer shows, and no label at all."""

_GROUND = np.array([[12, 14, 18, 150], [12, 14, 18, 150], [235, 238, 245, 120]], np.uint8)
"""RGBA of dimmed pixels, hatched ones, and the hatching's lines."""

FILL_ALPHA = 128
"""Opacity, 0..255, of the inside of a region; its contour is opaque."""


class Region(NamedTuple):
    """One area of a layer: its colour RGB 0..255, its area as a fraction of the photo."""

    category_id: int
    color: tuple[int, int, int]
    name: str
    area: float
    score: float


class Mark(NamedTuple):
    """Where the name of a region stands: x, y and area are fractions of the width, the height and the photo.

    It is crowded if it would cover another name on a thumbnail.
    """

    category_id: int
    x: float
    y: float
    area: float
    score: float
    crowded: bool


@dataclass(frozen=True)
class Layer:
    """A transparent picture: index uint16 (h, w) into palette uint8 (C, 4) RGBA; and its marks."""

    index: np.ndarray
    palette: np.ndarray
    marks: tuple[Mark, ...]

    def to_rgba(self) -> Image.Image:
        """The layer as an RGBA picture."""
        return Image.fromarray(self.palette[self.index])

    def save(self, path: str | Path) -> None:
        """Write it as a PNG: with a palette where 256 colours do, about a tenth of the size of RGBA."""
        if len(self.palette) > 256:
            self.to_rgba().save(path, "PNG")
            return
        picture = Image.fromarray(self.index.astype(np.uint8))
        picture.putpalette(self.palette[:, :3].tobytes())
        picture.save(path, "PNG", transparency=self.palette[:, 3].tobytes())


def fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height of the same aspect whose longer one is ``longest`` pixels, each at least 1."""
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw_layer(regions_map: np.ndarray, regions: Sequence[Region], thumbnail: int) -> Layer:
    """Fill regions with their colours, draw their contours, dim or hatch the rest.

    Args:
        regions_map: int32 (h, w): 1 + index into ``regions``, or `DIMMED`, or `HATCHED`.
        regions: the R regions.
        thumbnail: longest side in pixels at which marks shall not cover each other.
    """
    colors = sorted({region.color for region in regions})
    fills = [0, *(len(_GROUND) + 2 * colors.index(region.color) for region in regions)]
    index = np.array(fills, np.uint16)[np.maximum(regions_map, 0)]
    index[contours(regions_map) & (regions_map > 0)] += 1
    hatched = regions_map == HATCHED
    diagonal = np.add.outer(*map(np.arange, regions_map.shape))
    index[hatched] = np.where(diagonal[hatched] % 12 < 2, 2, 1)
    palette = [_GROUND]
    for color in colors:
        lighter = [round(part + (255 - part) * 0.45) for part in color]
        palette.append(np.array([[*color, FILL_ALPHA], [*lighter, 255]], np.uint8))
    return Layer(index, np.concatenate(palette), tuple(place_marks(regions_map, regions, thumbnail)))


def contours(regions_map: np.ndarray) -> np.ndarray:
    """bool (h, w): pixels that have another region beside, above or below them."""
    edge = np.zeros(regions_map.shape, bool)
    for labels, marked in ((regions_map, edge), (regions_map.T, edge.T)):
        differs = labels[1:] != labels[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
    return edge


def place_marks(regions_map: np.ndarray, regions: Sequence[Region], thumbnail: int) -> list[Mark]:
    """A mark deep inside each region that shows, large regions first."""
    h, w = regions_map.shape
    scale = thumbnail / max(h, w)
    boxes = ndimage.find_objects(np.maximum(regions_map, 0), len(regions))
    placed: list[tuple[float, float, float, float]] = []
    marks = []
    for index in sorted(range(len(regions)), key=lambda i: -regions[i].area):
        if boxes[index] is None:
            continue
        region, (rows, columns) = regions[index], boxes[index]
        row, column = _deepest(regions_map[rows, columns] == index + 1)
        half_x = (6.4 * len(region.name) + 12) / 2 / (w * scale)  # pixels of an 11 px face
        half_y = 17 / 2 / (h * scale)
        x = float(np.clip((column + columns.start + 0.5) / w, min(half_x, 0.5), max(1 - half_x, 0.5)))
        y = float(np.clip((row + rows.start + 0.5) / h, min(half_y, 0.5), max(1 - half_y, 0.5)))
        covers = (
            abs(x - x2) < half_x + half_x2 and abs(y - y2) < half_y + half_y2 for x2, y2, half_x2, half_y2 in placed
        )
        crowded = region.area < 0.004 or any(covers)
        if not crowded:
            placed.append((x, y, half_x, half_y))
        marks.append(Mark(region.category_id, round(x, 4), round(y, 4), region.area, region.score, crowded))
    return marks


def _deepest(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of a pixel of ``mask`` bool (h, w) that is far from its border; on a coarse grid if large."""
    step = max(1, max(mask.shape) // 100)
    coarse = mask[::step, ::step]
    if not coarse.any():
        step, coarse = 1, mask
    depth = ndimage.distance_transform_cdt(np.pad(coarse, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row) * step, int(column) * step


def draw_crop(photo: np.ndarray, mask: np.ndarray, side: int) -> Image.Image:
    """The surroundings of a segment, with what is not the segment greyed, and a white contour.

    Args:
        photo: uint8 (H, W, 3) RGB.
        mask: bool (H, W), not empty.
        side: longest side of the picture in pixels.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    reach = max(round(1.25 * max(span.stop - span.start for span in box)), 24)
    top, left = (
        min(max((span.start + span.stop - reach) // 2, 0), max(limit - reach, 0))
        for span, limit in zip(box, mask.shape, strict=True)
    )
    patch = np.ascontiguousarray(photo[top : top + reach, left : left + reach])
    cover = mask[top : top + reach, left : left + reach].astype(np.uint8) * 255
    size = fit(patch.shape[1], patch.shape[0], side)
    inside = np.asarray(Image.fromarray(cover).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)) > 127
    pixels = np.asarray(Image.fromarray(patch).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
    grey = pixels.mean(axis=2, keepdims=True) * 0.35 + 30
    drawn = np.where(inside[..., None], pixels, grey)
    drawn[contours(inside) & ~inside] = 245
    return Image.fromarray(drawn.round().astype(np.uint8))
