"""Which photos a run is about: those of a folder, a pattern, a list or a COCO JSON."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePosixPath

from u2seg.errors import UsageError, printable
from u2seg.images.reading import EXTENSIONS
from u2seg.images.sources import PassedOver, list_photos

logger = logging.getLogger(__name__)

REASONS = {
    "ending": "files whose ending is none of a photo's",
    "format": "photos of a format that is not read here",
    "link": "links that lead out of the folder (a .txt list may name their targets)",
    "folder": "folders that can't be read",
    "output": "outputs of u2seg",
}
"""Why something in a folder is no photo of the run."""


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
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """A key of `REASONS` to the names, below the folder, of what was not taken."""
    repeated: int = 0
    """Entries of a list that name a file twice."""
    numbered: bool = False
    """Whether the ids are those of a list that brought its own, and must stay."""

    def __len__(self) -> int:
        return len(self.photos)

    def notes(self) -> list[str]:
        """A line for each reason why something was passed over, with a number and a name."""
        repeated = [f"named more than once: {self.repeated}"] if self.repeated else []
        return repeated + _reasons(self.passed_over)


def _reasons(passed_over: PassedOver) -> list[str]:
    """A line for each key of `REASONS` that ``passed_over`` has names for."""
    return [
        f"passed over, {words}: {len(passed_over[reason])}, such as {printable(passed_over[reason][0])}"
        for reason, words in REASONS.items()
        if passed_over.get(reason)
    ]


def find_photos(
    images: str | Sequence[str], root: str | None = None, option: str = "--images", output: str = ""
) -> PhotoSet:
    """Find the photos that ``--images`` names.

    Args:
        images: a folder (searched below; links that lead out of it and outputs of u2seg are passed over), a pattern
            with ``*``, ``?`` or ``[``, one photo, a ``.txt`` file of one path a line, or a COCO ``.json`` with an
            ``images`` list; or several of these, whose photos are numbered anew.
        root: the folder that names are relative to; by default the folder itself, or the deepest common one.
        option: what the user typed ``images`` for, named in messages.
        output: where the run will write; what lies there in a folder or behind a pattern is none of its photos.

    Raises:
        UsageError: it does not exist, can't be read, or holds no photo.
    """
    if not isinstance(images, str) and len(images) > 1:
        sets = [find_photos(entry, root, option, output) for entry in images]
        paths = [photo.path for photos in sets for photo in photos.photos]
        together: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
        for reason, names in (item for photos in sets for item in photos.passed_over.items()):
            together[reason] += names
        base = Path(root).expanduser() if root else _common_folder(paths)
        return _number(paths, None, base.absolute(), together)
    images = images if isinstance(images, str) else images[0]
    paths, ids, usual_base, passed_over = list_photos(images, root, option, os.path.realpath(output) if output else "")
    if not paths:
        other = "".join(f"; {reason}" for reason in _reasons(passed_over))
        raise UsageError(f"{option} {images!r} holds no photos; taken are {' '.join(sorted(EXTENSIONS))}{other}")
    for reason in _reasons({key: names for key, names in passed_over.items() if key in ("link", "folder")}):
        logger.warning("%s: %s", option, reason)
    base = Path(root).expanduser() if root else usual_base or _common_folder(paths)
    return _number(paths, ids, base.absolute(), passed_over)


def _common_folder(paths: Sequence[str]) -> Path:
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise UsageError("the photos share no folder; name one by --image-root") from error


def _number(paths: Sequence[str], ids: Sequence[int] | None, base: Path, passed_over: PassedOver) -> PhotoSet:
    """Give each path a name below ``base``, an id and the name of its label."""
    files: dict[str, str] = {}  # Name to path
    numbers: dict[str, int] = {}
    for index, path in enumerate(paths):
        full = os.path.abspath(path)
        name = PurePosixPath(Path(os.path.relpath(full, base))).as_posix()
        if name.startswith("../"):
            raise UsageError(f"photo {path!r} does not lie below --image-root {base}")
        files.setdefault(name, full)
        numbers.setdefault(name, ids[index] if ids else len(files))
    labels = _label_names(files)
    photos = sorted((Photo(numbers[name], name, files[name], labels[name]) for name in files), key=lambda p: p.id)
    return PhotoSet(base, tuple(photos), passed_over, len(paths) - len(photos), numbered=ids is not None)


def _label_names(names: Iterable[str]) -> dict[str, str]:
    """The label of ``a/b.jpg`` is ``a/b.png``, or ``a/b.jpg.png`` where another photo, or a folder, has that name."""
    taken = {str(folder).lower() for name in names for folder in PurePosixPath(name).parents}
    labels = {}
    for name in names:
        further = (f"{name}.{copy}.png" for copy in count(2))
        candidates = chain([str(PurePosixPath(name).with_suffix(".png")), f"{name}.png"], further)
        labels[name] = next(label for label in candidates if label.lower() not in taken)
        taken.add(labels[name].lower())
    return labels


def batches(photos: Sequence[Photo], size: int) -> Iterator[Sequence[Photo]]:
    """``photos`` in runs of ``size``, the last maybe shorter."""
    for start in range(0, len(photos), size):
        yield photos[start : start + size]
