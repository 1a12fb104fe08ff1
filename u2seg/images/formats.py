"""Formats of photos that are read: an allow-list, since Pillow's others start programs or read without end."""

from __future__ import annotations

import contextlib
import os
from functools import cache

from PIL import Image

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
"""Pillow's name of a format to the endings of its files."""


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


@cache
def extensions() -> frozenset[str]:
    """Endings of the files of a folder that are taken for photos."""
    return frozenset(f".{ending}" for name in _readable() for ending in _ENDINGS[name])
