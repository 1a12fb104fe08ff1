"""Which photos a run is about, and how one becomes pixels.

Shapes: ``H, W`` pixels of the photo after its EXIF orientation is applied, the size that its labels have.
"""

from __future__ import annotations

import glob
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from u2seg.errors import DataError, UsageError

_ENDINGS = ("bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp")
EXTENSIONS = frozenset(f".{ending}" for ending in _ENDINGS)
"""Files of a folder that are taken for photos; what they hold decides how they are read, not their name."""


@dataclass(frozen=True)
class Photo:
    """One photo of a run."""

    id: int
    """``image_id`` in the dataset that is made."""
    name: str
    """Path below the root, with slashes; ``file_name`` in the dataset."""
    path: str
    """Where to read it."""
    label: str
    """Name of its label PNG below ``panoptic/``: the photo's, with the ending ``.png``."""


@dataclass(frozen=True)
class PhotoSet:
    """The photos of a run, in order of their id, and what was passed over."""

    root: Path
    photos: tuple[Photo, ...]
    ignored: int = 0
    """Files of a folder whose ending is none of a photo."""
    repeated: int = 0
    """Entries of a list that name a file twice."""
    numbered: bool = False
    """Whether the ids are those of a list that brought its own, and must stay."""

    def __len__(self) -> int:
        return len(self.photos)


def find_photos(images: str | Sequence[str], root: str | None = None, option: str = "--images") -> PhotoSet:
    """Find the photos that ``--images`` names.

    Args:
        images: a folder (searched below, through links), a pattern with ``*``, ``?`` or ``[``, one photo, a ``.txt``
            file of one path a line, or a COCO ``.json`` with an ``images`` list; or several of these, whose photos
            are numbered anew.
        root: the folder that names are relative to; by default the folder itself, or the deepest common one.
        option: what the user typed ``images`` for, named in messages.

    Raises:
        UsageError: it does not exist, can't be read, or holds no photo.
    """
    if not isinstance(images, str):
        if len(images) == 1:
            return find_photos(images[0], root, option)
        sets = [find_photos(entry, root, option) for entry in images]
        paths = [photo.path for photos in sets for photo in photos.photos]
        base = Path(root).expanduser() if root else _common_folder(paths)
        return _number(paths, None, base.absolute(), sum(photos.ignored for photos in sets))
    given = Path(images).expanduser()
    ignored = 0
    ids: list[int] | None = None
    if given.is_dir():
        paths, ignored = _walk(given)
        base = given
    elif given.is_file() and given.suffix.lower() == ".json":
        paths, ids, base = _read_coco(given, root)
    elif given.is_file() and given.suffix.lower() == ".txt":
        paths, base = _read_list(given), None
    elif given.is_file():
        paths, base = [str(given)], given.parent
    elif any(mark in images for mark in "*?["):
        paths, base = sorted(p for p in glob.glob(str(given), recursive=True) if not os.path.isdir(p)), None
    else:
        raise UsageError(
            f"{option} {images!r} does not exist; give a folder, a 'pattern*', a .txt list or a COCO .json"
        )
    if not paths:
        other = f" ({ignored} files have another ending)" if ignored else ""
        raise UsageError(f"{option} {images!r} holds no photos{other}; taken are {' '.join(sorted(EXTENSIONS))}")
    base = Path(root).expanduser() if root else (base or _common_folder(paths))
    return _number(paths, ids, base.absolute(), ignored)


def _walk(folder: Path) -> tuple[list[str], int]:
    """Photos below ``folder`` by name, and how many other files there are; each real folder is entered once."""
    found: list[str] = []
    ignored = 0
    seen: set[tuple[int, int]] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        identity = os.stat(current)
        key = (identity.st_dev, identity.st_ino)
        if key in seen:
            folders.clear()
            continue
        seen.add(key)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith("."):
                found.append(os.path.join(current, name))
            else:
                ignored += 1
    return sorted(found), ignored


def _read_list(file: Path) -> list[str]:
    """Paths in ``file``, one a line; relative ones are looked for beside the file, then from here."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--images {file}: {error}") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    beside = [file.parent / name for name in names]
    return [str(near if near.exists() else Path(name)) for near, name in zip(beside, names, strict=True)]


def _read_coco(file: Path, root: str | None) -> tuple[list[str], list[int], Path]:
    """Paths and ids of the ``images`` of a COCO JSON, and the folder they lie in."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["images"]
        names = [str(entry["file_name"]) for entry in entries]
        ids = [int(entry["id"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--images {file}: no COCO JSON with images that have id and file_name ({error})") from error
    if len(set(ids)) < len(ids):
        raise UsageError(f"--images {file}: two images share an id")
    places = [Path(root)] if root else [file.parent, file.parent / "images", file.parent / file.stem]
    for base in places:
        if names and (base / names[0]).exists():
            return [str(base / name) for name in names], ids, base
    tried = ", ".join(map(str, places))
    raise UsageError(
        f"--images {file}: {names[0] if names else 'no image'!r} is not in {tried}; name it by --image-root"
    )


def _common_folder(paths: Sequence[str]) -> Path:
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise UsageError("the photos share no folder; name one by --image-root") from error


def _number(paths: Sequence[str], ids: Sequence[int] | None, base: Path, ignored: int) -> PhotoSet:
    """Give each path a name below ``base``, an id and the name of its label."""
    photos: list[Photo] = []
    seen: set[str] = set()
    for index, path in enumerate(paths):
        full = os.path.abspath(path)
        name = PurePosixPath(Path(os.path.relpath(full, base))).as_posix()
        if name in seen:
            continue
        if name.startswith("../"):
            raise UsageError(f"photo {path!r} does not lie below --image-root {base}")
        seen.add(name)
        photos.append(Photo(ids[index] if ids else len(photos) + 1, name, full, ""))
    labelled = _name_labels(photos)
    ordered = tuple(sorted(labelled, key=lambda photo: photo.id))
    return PhotoSet(base, ordered, ignored, len(paths) - len(photos), numbered=ids is not None)


def _name_labels(photos: Sequence[Photo]) -> list[Photo]:
    """The label of ``a/b.jpg`` is ``a/b.png``, or ``a/b.jpg.png`` where another photo, or a folder, has that name."""
    names = {str(folder).lower() for photo in photos for folder in PurePosixPath(photo.name).parents}
    labelled = []
    for photo in photos:
        label = str(PurePosixPath(photo.name).with_suffix(".png"))
        copy = 1
        while label.lower() in names:
            label = f"{photo.name}.png" if copy == 1 else f"{photo.name}.{copy}.png"
            copy += 1
        names.add(label.lower())
        labelled.append(replace(photo, label=label))
    return labelled


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read any photo as uint8 (H, W, 3) RGB.

    EXIF orientation is applied; transparency lies on white; 16-bit and float grey are scaled to 8 bits; of an
    animation the first frame is taken.

    Raises:
        DataError: the file can't be read; the message is the reason, without the path.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large photos, which are welcome here
            with Image.open(path) as image:
                image.load()
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError as error:
        size = os.path.getsize(path)
        raise DataError("empty file" if size == 0 else "not an image, or of a kind that Pillow can't read") from error
    except Image.DecompressionBombError as error:
        raise DataError("more than 178 megapixels; make it smaller first") from error
    except MemoryError as error:
        raise DataError("not enough memory for it") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        # Pillow's decoders raise each of these on damaged files.
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise DataError(f"can't be read: {text or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_eight_bits(np.asarray(image, np.float64))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values to uint8 by the smallest of the usual ranges that holds them: 0..1, 0..255, 0..65535."""
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    full = 1.0 if 0 < top <= 1 and not np.array_equal(values, np.rint(values)) else 255.0 if top <= 255 else 65535.0
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)


def shrink(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """``image`` uint8 (H, W, 3), or a copy of at most about ``max_pixels`` pixels with the same aspect ratio."""
    height, width = image.shape[:2]
    if height * width <= max_pixels:
        return image
    factor = (max_pixels / (height * width)) ** 0.5
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, reducing_gap=3.0))


def enlarge(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels (h, w) of any integer or bool type at ``height`` x ``width``, each pixel from the nearest cell."""
    h, w = labels.shape
    if (h, w) == (height, width):
        return labels
    rows = np.minimum((np.arange(height) + 0.5) * h / height, h - 1).astype(int)
    columns = np.minimum((np.arange(width) + 0.5) * w / width, w - 1).astype(int)
    return labels[rows[:, None], columns]


def batches(photos: Sequence[Photo], size: int) -> Iterator[Sequence[Photo]]:
    """``photos`` in runs of ``size``, the last maybe shorter."""
    for start in range(0, len(photos), size):
        yield photos[start : start + size]
