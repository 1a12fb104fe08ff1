"""How a photo becomes pixels. What it is decides the content of its file, not the name.

Shapes: ``H, W`` pixels of the photo after its EXIF orientation is applied, the size that its labels have.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from u2seg.errors import DataError
from u2seg.files import open_regular
from u2seg.images import depth

logger = logging.getLogger(__name__)

MAX_PIXELS = 178_956_970
"""Of a photo that is decoded, unless ``U2SEG.INPUT.MAX_DECODED_PIXELS`` says less. Pillow's own limit."""
REDUCED_FROM = 32
"""A photo of more than this many times the pixels that are asked for is decoded at a half, a quarter or an eighth, as
far as its format can do that; 32 megapixels as shipped."""
_ORIENTATION, _BITS_PER_SAMPLE = 274, 258
_ENDINGS = {
    "AVIF": ("avif",),
    "BMP": ("bmp",),
    "DIB": ("dib",),
    "GIF": ("gif",),
    "HEIF": ("heic", "heif", "hif"),  # where pillow-heif is installed
    "JPEG": ("jfif", "jpe", "jpeg", "jpg"),
    "JPEG2000": ("j2k", "jp2", "jpf", "jpx"),
    "MPO": ("mpo",),
    "PNG": ("png",),
    "PPM": ("pbm", "pgm", "pnm", "ppm"),
    "TIFF": ("tif", "tiff"),
    "WEBP": ("webp",),
    "TGA": ("tga",),  # last, since it has no mark of its own
}
"""Pillow's name of a format to the endings of its files: an allow-list, since its other ones start programs or read
without end."""
_DEPTH_UNKNOWN = ("JPEG2000", "AVIF", "HEIF")
"""Formats of which Pillow gives the upper 8 bits, however many the file has."""


@cache
def _readable() -> tuple[str, ...]:
    """Those of the formats that can be read here."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _ENDINGS if name in Image.OPEN)


def formats_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Formats that the file may have, whatever it is called; only TGA goes by name."""
    is_tga = os.fspath(path).lower().endswith(".tga")
    return tuple(name for name in _readable() if name != "TGA" or is_tga)


EXTENSIONS = frozenset(f".{ending}" for name in _readable() for ending in _ENDINGS[name])
"""Files of a folder that are taken for photos; what they hold decides how they are read, not their name."""


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read any photo as uint8 (H, W, 3) RGB.

    EXIF orientation is applied; transparency lies on white; more than eight bits become eight as
    `u2seg.images.depth` says; of an animation the first frame is taken.

    Args:
        path: a regular file; a pipe or a device is not opened.
        max_pixels: a larger photo is not decoded.

    Raises:
        DataError: the file can't be read; the message is the reason, without the path.
    """
    return np.array(_read(Path(path), max_pixels, None)[0])


def read_shrunk(
    path: str | os.PathLike[str], pixels: int, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[int, int]]:
    """`read_image`, shrunk to about ``pixels`` at most with the same aspect; a large photo needs far less memory so.

    Returns:
        The photo uint8 (h, w, 3), and the H and W that it has on disk.

    Raises:
        DataError: as `read_image`.
    """
    image, size = _read(Path(path), max_pixels, pixels)
    return np.array(_shrink(image, pixels)), size


def _read(path: Path, max_pixels: int, pixels: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The photo in RGB, reduced where it is far larger than ``pixels``, and its height and width."""
    try:
        with warnings.catch_warnings(), open_regular(path) as file:
            warnings.simplefilter("ignore")  # Pillow warns of large photos, which are welcome here
            with _open(file, path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise DataError(f"{width} x {height} pixels, more than {max_pixels}; make it smaller first")
                reduced = pixels is not None and width * height > REDUCED_FROM * pixels and _reduce(image, pixels)
                # only now: asking a PNG for its orientation decodes it
                on_its_side = reduced and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
                rgb = _turned_rgb(image, file, path)
                if not reduced:
                    return rgb, (rgb.height, rgb.width)
                return rgb, (width, height) if on_its_side else (height, width)
    except UnidentifiedImageError as error:
        size = os.path.getsize(path)
        raise DataError("empty file" if size == 0 else "not an image, or of a kind that is not read") from error
    except Image.DecompressionBombError as error:
        raise DataError("more than 178 megapixels; make it smaller first") from error
    except MemoryError as error:
        raise DataError("not enough memory for it") from error
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        # Pillow's decoders raise each of these on damaged files.
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise DataError(f"can't be read: {text or type(error).__name__}") from error


def _open(file: BinaryIO, path: Path) -> ImageFile:
    """Open an image of a format that is allowed; the others start programs, or have no end."""
    file.seek(0)
    image = Image.open(file, formats=formats_of(path))
    if image.format == "TIFF":
        depth.keep_colours(image)
    return image


def _reduce(image: ImageFile, pixels: int) -> bool:
    """Let JPEG and JPEG 2000 decode a half, a quarter or an eighth of each side, still above four times ``pixels``."""
    factor = 1
    while factor < 8 and image.width * image.height > 16 * factor**2 * pixels:
        factor *= 2
    if image.format == "JPEG2000":
        image.reduce = factor.bit_length() - 1  # type: ignore[assignment, method-assign]
        return True
    return image.draft(None, (image.width // factor, image.height // factor)) is not None


def _turned_rgb(image: ImageFile, file: BinaryIO, path: Path) -> Image.Image:
    tags = depth.declarations(image)
    if not depth.is_deep(image):
        if max(np.ravel(tags.get(_BITS_PER_SAMPLE, 8))) > 8:
            raise DataError("a TIFF of more than 8 bits whose channels lie apart; save it with them side by side")
        image.load()
        if image.format in _DEPTH_UNKNOWN:
            _warn_of_contrast(str(path), np.asarray(image))
        ImageOps.exif_transpose(image, in_place=True)  # without a copy of a large photo
        return _to_rgb(image, image.format)
    values = depth.read_deep(image, _open(file, path))
    colors = values if values.ndim == 2 else values[..., :3]
    eight = depth.to_eight_bits(colors, tags)
    _warn_of_contrast(str(path), eight)
    rgb = Image.fromarray(eight).convert("RGB")
    if values.shape[2:] == (4,):
        rgb.putalpha(Image.fromarray(depth.to_eight_bits(values[..., 3], {})))
        rgb.info = image.info
        rgb = _to_rgb(rgb, image.format)
    rgb.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return ImageOps.exif_transpose(rgb)


def _warn_of_contrast(path: str, pixels: np.ndarray) -> None:
    """Name the photo at ``path``, once, if nothing can be seen in its ``pixels`` uint8 (H, W) or (H, W, C)."""
    if not depth.has_contrast(pixels):
        _warn_once(path, int(pixels.min()), int(pixels.max()))


@cache
def _warn_once(path: str, least: int, most: int) -> None:
    logger.warning("photo %r has almost no contrast left at 8 bits: grey values %d to %d", path, least, most)


def _to_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if kind == "TIFF" and not _is_transparency(np.asarray(image.getchannel("A"))):
            return image.convert("RGB")
        if depth.PREMULTIPLIED in image.info:
            white = ImageChops.invert(image.getchannel("A"))
            return ImageChops.add(image.convert("RGB"), Image.merge("RGB", [white] * 3))
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _is_transparency(band: np.ndarray) -> bool:
    """Whether the last band uint8 (H, W) of a TIFF, often near infrared that calls itself alpha, is transparency."""
    extreme = (band == 0) | (band == 255)
    return bool(extreme.mean() >= 0.5 or band.min() == band.max())


def _shrink(image: Image.Image, max_pixels: int) -> Image.Image:
    width, height = image.size
    if height * width <= max_pixels:
        return image
    factor = (max_pixels / (height * width)) ** 0.5
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return image.resize(size, Image.Resampling.BOX, reducing_gap=3.0)


def enlarge(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels (h, w) of any integer or bool type at ``height`` x ``width``, each pixel from the nearest cell."""
    h, w = labels.shape
    if (h, w) == (height, width):
        return labels
    rows = np.minimum((np.arange(height) + 0.5) * h / height, h - 1).astype(int)
    columns = np.minimum((np.arange(width) + 0.5) * w / width, w - 1).astype(int)
    return labels.take(rows, axis=0).take(columns, axis=1)
