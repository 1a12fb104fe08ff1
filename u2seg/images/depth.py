"""Pixels of more than eight bits as eight: one rule, so that a deeper copy of a picture gives that picture.

1. NaN, infinity and the no-data value that a TIFF declares are black. Values beyond a gap wider than the range of
   most others (undeclared no-data, dead pixels) are black or white, and do not count below.
2. The range from black to white is what a TIFF declares (SMinSampleValue, SMaxSampleValue), else
   for whole numbers from 0 the smallest of 8, 10, 12, 14, 16 bits (15 where they are signed) that holds them;
   for fractions from 0 the smallest of 0..1 and those bits that holds them, if they fill an eighth of it;
   else, and where there are negative values, from their 0.1 to their 99.9 percentile.

Shapes: ``H, W`` pixels; ``C`` channels, which share the range.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

BITS = (8, 10, 12, 14, 16)
SAMPLE = 1_000_000
"""Values, evenly spread, that the range is found from."""
FEWEST_VALUES = 16
"""Different values from which on a gap counts; a drawing in two colours has no outliers."""
LEAST_CONTRAST = 16
"""Grey levels between the 1st and the 99th percentile below which a picture is as good as empty; so is one of 12 bits
in 16 of which only the upper 8 are read."""
PHOTOMETRIC, GDAL_NODATA, SAMPLE_FORMAT, SAMPLE_MIN, SAMPLE_MAX = 262, 42113, 339, 340, 341
PREMULTIPLIED = "u2seg_premultiplied"
WHITE_IS_ZERO, SIGNED = 0, 2
"""Values of `PHOTOMETRIC` and of `SAMPLE_FORMAT`."""


def is_deep(image: ImageFile) -> bool:
    """Whether ``image``, not yet loaded, has more than eight bits a channel."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F") or _raw_mode(image)[-4:-1] == ";16"


def declarations(image: ImageFile) -> Mapping[int, Any]:
    """What a TIFF says of its values, by the number of a tag; nothing for others."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def read_deep(image: ImageFile, again: ImageFile) -> np.ndarray:
    """Values (H, W) or uint16 (H, W, C) of a deep image, not yet loaded; ``again`` is the same file, opened anew.

    Pillow has no mode for three channels of 16 bits and keeps the upper byte of each; read in the other byte order, it
    keeps the lower one.
    """
    raw = _raw_mode(image)
    if image.mode not in ("RGB", "RGBA"):
        return np.asarray(image)
    upper = np.asarray(image).astype(np.uint16)
    native = "L" if sys.byteorder == "little" else "B"
    other = {"L": "B", "B": "L"}[raw[-1].replace("N", native)]
    _read_as(again, raw[:-1] + other)
    return upper << 8 | np.asarray(again)


def keep_colours(image: ImageFile) -> None:
    """Let ``image``, not yet loaded, be read without dividing its colours by a fourth band that may be no transparency.

    ``image.info[PREMULTIPLIED]`` says that this was done.
    """
    raw = _raw_mode(image)
    if image.mode == "RGBA" and raw.startswith("RGBa"):
        _read_as(image, raw.replace("RGBa", "RGBA"))
        image.info[PREMULTIPLIED] = True


def _read_as(image: ImageFile, raw: str) -> None:
    """Let ``image``, not yet loaded, be read as if its channels lay in the file as ``raw`` says."""
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:])) for tile in image.tile
    ]


def to_eight_bits(values: np.ndarray, tags: Any) -> np.ndarray:
    """uint8 of the shape of ``values`` by the rule above; ``tags`` are `declarations`, or an empty dict."""
    valid = np.isfinite(values) & (values != _declared(tags, GDAL_NODATA, np.nan))
    sample = values[valid].astype(np.float64)
    sample = _without_outliers(sample[:: -(-sample.size // SAMPLE) or 1])
    if not sample.size:
        return np.zeros(values.shape, np.uint8)
    low, high = _range(sample, SIGNED in np.ravel(tags.get(SAMPLE_FORMAT, 1)))
    low, high = _declared(tags, SAMPLE_MIN, low), _declared(tags, SAMPLE_MAX, high)
    scaled = np.zeros(values.shape, np.float32)
    scaled[valid] = (values[valid].astype(np.float64) - low) * (255.0 / max(high - low, 1e-30))
    eight = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return 255 - eight if _declared(tags, PHOTOMETRIC, 1) == WHITE_IS_ZERO else eight


def has_contrast(pixels: np.ndarray) -> bool:
    """Whether anything can be seen in ``pixels`` uint8 (H, W) or (H, W, C)."""
    low, high = np.percentile(pixels.reshape(-1)[:: -(-pixels.size // SAMPLE)], (1, 99))
    return bool(high - low >= LEAST_CONTRAST)


def _raw_mode(image: ImageFile) -> str:
    """How the file holds the channels, such as ``RGB;16B``."""
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _without_outliers(sample: np.ndarray) -> np.ndarray:
    """Those of ``sample`` that no gap, wider than the range of most of them, parts from the others."""
    values, counts = np.unique(sample, return_counts=True)
    if len(values) < FEWEST_VALUES:
        return sample
    # no-data may fill a third of a picture, but is one value; dead pixels have many values, each of which comes once
    usual = np.median(counts[counts > 1]) if counts.max() > 1 else 1
    weights = np.minimum(counts, usual).cumsum()
    first, last = np.searchsorted(weights, weights[-1] * np.array([0.1, 0.9]))
    wide = np.flatnonzero(np.diff(values) > values[last] - values[first])
    low = values[wide[wide < first].max(initial=-1) + 1]
    high = values[wide[wide >= last].min(initial=len(values) - 1)]
    return sample[(sample >= low) & (sample <= high)]


def _range(sample: np.ndarray, signed: bool) -> tuple[float, float]:
    """Values that become black and white."""
    low, high = np.percentile(sample, (0.1, 99.9))
    whole = bool(np.array_equal(sample, np.rint(sample)))
    top = float(sample.max()) if whole else high
    depths = [2.0**bits - 1 for bits in sorted({*BITS, 15 if signed else 16})]
    full = next((depth for depth in ([] if whole else [1.0]) + depths if top <= depth), None)
    if full is not None and (sample.min() >= 0 if whole else low >= -0.02 * high and (high - low) * 8 >= full):
        return 0, full
    return float(low), float(high)


def _declared(tags: Any, tag: int, default: float) -> float:
    """A number that the TIFF declares."""
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(str(value).strip("\0 "))
    except ValueError:
        return default
