"""Which photos a run is about: those of a folder, a pattern, a list or a COCO JSON."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from u2seg.errors import UsageError, printable
from u2seg.images.reading import EXTENSIONS
from u2seg.images.sources import PassedOver, list_photos

logger = logging.getLogger(__name__)

MOST_IN_FOLDER = 5000
"""Photos of a folder up to which their labels lie in one folder; with more they lie in 256."""
REASONS = {
    "ending": "files whose ending is none of a photo's",
    "format": "photos of a format that is not read here",
    "link": "links that lead out of the folder (a .txt list may name their targets)",
    "folder": "folders that can't be read",
    "output": "outputs of u2seg",
}
"""Why something in a folder is no photo of the run."""


@dataclass(frozen=True, slots=True)
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
        return repeated + [
            f"passed over, {words}: {len(self.passed_over[reason])}, such as {printable(self.passed_over[reason][0])}"
            for reason, words in REASONS.items()
            if self.passed_over.get(reason)
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
        other = "".join(f"; {note}" for note in PhotoSet(Path(), (), passed_over).notes())
        raise UsageError(f"{option} {images!r} holds no photos; taken are {' '.join(sorted(EXTENSIONS))}{other}")
    surprising = {reason: names for reason, names in passed_over.items() if reason in ("link", "folder")}
    for note in PhotoSet(Path(), (), surprising).notes():
        logger.warning("%s: %s", option, note)
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
    return PhotoSet(base, ordered, passed_over, len(paths) - len(photos), numbered=ids is not None)


def _name_labels(photos: Sequence[Photo]) -> list[Photo]:
    """The label of ``a/b.jpg`` is ``a/b.png``, or ``a/b.jpg.png`` where another photo, or a folder, has that name.

    Where ``a`` has more than `MOST_IN_FOLDER` photos, two digits that come of the name lie between: ``a/3f/b.png``.
    """
    sizes = Counter(posixpath.dirname(photo.name) for photo in photos)
    names = {str(folder).lower() for photo in photos for folder in PurePosixPath(photo.name).parents}
    labelled = []
    for photo in photos:
        folder, base = posixpath.split(photo.name)
        if sizes[folder] > MOST_IN_FOLDER:
            folder = posixpath.join(folder, hashlib.sha256(os.fsencode(base)).hexdigest()[:2])
        label = str(PurePosixPath(folder, base).with_suffix(".png"))
        copy = 1
        while label.lower() in names:
            label = posixpath.join(folder, f"{base}.png" if copy == 1 else f"{base}.{copy}.png")
            copy += 1
        names.add(label.lower())
        labelled.append(replace(photo, label=label))
    return labelled


def batches(photos: Sequence[Photo], size: int) -> Iterator[Sequence[Photo]]:
    """``photos`` in runs of ``size``, the last maybe shorter."""
    for start in range(0, len(photos), size):
        yield photos[start : start + size]
