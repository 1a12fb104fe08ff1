"""Which photos a run is about, and how one becomes pixels."""

from u2seg.images.finding import Photo, PhotoSet, batches, find_photos
from u2seg.images.reading import EXTENSIONS, MAX_PIXELS, enlarge, read_image, read_shrunk

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "Photo",
    "PhotoSet",
    "batches",
    "enlarge",
    "find_photos",
    "read_image",
    "read_shrunk",
]
