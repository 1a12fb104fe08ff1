"""Which photos a run is about: those of a folder, a pattern, a list or a COCO JSON."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from u2seg.errors import UsageError, printable
from u2seg.images.reading import EXTENSIONS
from u2seg.images.sources import Listed, list_photos

logger = logging.getLogger(__name__)

MOST_IN_FOLDER = 5000
"""Photos of a folder up to which their labels lie in one folder; with more they lie in 256."""
REASONS = {
    "ending": "files whose ending is none of a photo's that is read here",
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
        return repeated + _notes(self.passed_over)


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
    sources = [images] if isinstance(images, str) else images
    listed = _together([_list(source, root, option, output) for source in sources])
    base = Path(root).expanduser() if root else listed.folder or _common_folder(listed.paths)
    return _number(listed, base.absolute())


def _together(listed: Sequence[Listed]) -> Listed:
    if len(listed) == 1:
        return listed[0]
    names = ((reason, [n for each in listed for n in each.passed_over.get(reason, ())]) for reason in REASONS)
    passed_over = {reason: tuple(of_reason) for reason, of_reason in names if of_reason}
    return Listed([path for each in listed for path in each.paths], passed_over=passed_over)


def _list(source: str, root: str | None, option: str, output: str) -> Listed:
    listed = list_photos(source, root, option, os.path.realpath(output) if output else "")
    if not listed.paths:
        other = "".join(f"; {note}" for note in _notes(listed.passed_over))
        raise UsageError(f"{option} {source!r} holds no photos; taken are {' '.join(sorted(EXTENSIONS))}{other}")
    surprising = {reason: names for reason, names in listed.passed_over.items() if reason in ("link", "folder")}
    for note in _notes(surprising):
        logger.warning("%s: %s", option, note)
    return listed


def _notes(passed_over: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"passed over, {words}: {len(passed_over[reason])}, such as {printable(passed_over[reason][0])}"
        for reason, words in REASONS.items()
        if passed_over.get(reason)
    ]


def _common_folder(paths: Sequence[str]) -> Path:
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise UsageError("the photos share no folder; name one by --image-root") from error


def _number(listed: Listed, base: Path) -> PhotoSet:
    """Give each path a name below ``base``, an id and the name of its label."""
    photos: list[Photo] = []
    seen: set[str] = set()
    for index, path in enumerate(listed.paths):
        full = os.path.abspath(path)
        name = PurePosixPath(Path(os.path.relpath(full, base))).as_posix()
        if name in seen:
            continue
        if name.startswith("../"):
            raise UsageError(f"photo {path!r} does not lie below --image-root {base}")
        seen.add(name)
        photos.append(Photo(listed.ids[index] if listed.ids else len(photos) + 1, name, full, ""))
    labelled = _name_labels(photos)
    ordered = tuple(sorted(labelled, key=lambda photo: photo.id))
    repeated = len(listed.paths) - len(photos)
    return PhotoSet(base, ordered, listed.passed_over, repeated, numbered=listed.ids is not None)


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
