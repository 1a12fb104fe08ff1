"""Which photos a run is about: those of a folder, a pattern, a list or a COCO JSON."""

from __future__ import annotations

import glob
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path, PurePosixPath

from u2seg import fields
from u2seg.errors import DataError, UsageError, printable
from u2seg.files import is_output
from u2seg.images.formats import extensions

logger = logging.getLogger(__name__)

EXTENSIONS = extensions()
"""Files of a folder that are taken for photos; what they hold decides how they are read, not their name."""


REASONS = {
    "ending": "files whose ending is none of a photo's",
    "format": "photos of a format that is not read here",
    "link": "links that lead out of the folder (a .txt list may name their targets)",
    "folder": "folders that can't be read",
    "output": "outputs of u2seg",
}
"""Why something in a folder is no photo of the run."""
_OTHER_FORMATS = frozenset(
    f".{ending}"
    for ending in ("heic", "heif", "hif", "avif", "jp2", "jxl", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "psd")
)


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
        return [
            f"passed over, {words}: {len(self.passed_over[reason])}, such as {printable(self.passed_over[reason][0])}"
            for reason, words in REASONS.items()
            if self.passed_over.get(reason)
        ]


def find_photos(images: str | Sequence[str], root: str | None = None, option: str = "--images") -> PhotoSet:
    """Find the photos that ``--images`` names.

    Args:
        images: a folder (searched below; links that lead out of it and outputs of u2seg are passed over), a pattern
            with ``*``, ``?`` or ``[``, one photo, a ``.txt`` file of one path a line, or a COCO ``.json`` with an
            ``images`` list; or several of these, whose photos are numbered anew.
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
        passed_over: dict[str, tuple[str, ...]] = {}
        for photos in sets:
            for reason, names in photos.passed_over.items():
                passed_over[reason] = passed_over.get(reason, ()) + names
        base = Path(root).expanduser() if root else _common_folder(paths)
        return _number(paths, None, base.absolute(), passed_over)
    source = Path(images).expanduser()
    passed_over, ids, base = {}, None, None
    if source.is_dir():
        paths, passed_over = _walk(source)
        base = source
    elif source.is_file() and source.suffix.lower() == ".json":
        paths, ids, base = _read_coco(source, root, option)
    elif source.is_file() and source.suffix.lower() == ".txt":
        paths = _read_list(source, option)
    elif source.is_file():
        paths, base = [str(source)], source.parent
    elif any(mark in images for mark in "*?["):
        paths = _match(str(source))
    else:
        raise UsageError(
            f"{option} {images!r} does not exist; give a folder, a 'pattern*', a .txt list or a COCO .json"
        )
    result = PhotoSet(source, (), passed_over)
    if not paths:
        other = "".join(f"; {note}" for note in result.notes())
        raise UsageError(f"{option} {images!r} holds no photos; taken are {' '.join(sorted(EXTENSIONS))}{other}")
    surprising = {reason: names for reason, names in passed_over.items() if reason in ("link", "folder")}
    for note in PhotoSet(source, (), surprising).notes():
        logger.warning("%s: %s", option, note)
    base = Path(root).expanduser() if root else (base or _common_folder(paths))
    return _number(paths, ids, base.absolute(), passed_over)


def _walk(folder: Path) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Photos below ``folder`` by name, each real file once, and what was passed over."""
    photos: list[str] = []
    links: list[str] = []
    passed_over: defaultdict[str, list[str]] = defaultdict(list)
    top = os.path.realpath(folder)

    def pass_over(reason: str, path: str) -> None:
        passed_over[reason].append(os.path.relpath(path, folder))

    for current, folders, files in os.walk(folder, onerror=lambda error: pass_over("folder", error.filename)):
        if current != str(folder) and is_output(current):
            pass_over("output", current)
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *files]:
            path, ending = os.path.join(current, name), os.path.splitext(name)[1].lower()
            if os.path.islink(path) and not _is_below(os.path.realpath(path), top):
                pass_over("link", path)
            elif name in folders:
                continue  # a link to a folder below this one adds nothing
            elif ending not in EXTENSIONS or name.startswith("."):
                pass_over("format" if ending in _OTHER_FORMATS else "ending", path)
            else:
                (links if os.path.islink(path) else photos).append(path)
    real = {os.path.realpath(path) for path in photos} if links else set()
    for link in sorted(links):
        target = os.path.realpath(link)
        if target not in real:
            real.add(target)
            photos.append(link)
    return sorted(photos), {reason: tuple(sorted(names)) for reason, names in passed_over.items()}


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(os.path.join(top, ""))


def _match(pattern: str) -> list[str]:
    """Files that ``pattern`` matches, but for those in outputs of u2seg that it reaches into, each real file once."""
    fixed = len(Path(glob.escape(pattern.split("*")[0].split("?")[0].split("[")[0])).parent.parts)
    outputs: dict[Path, bool] = {}
    by_file: dict[str, str] = {}
    for path in sorted(glob.glob(pattern, recursive=True)):
        folders = list(Path(path).parents)[: max(len(Path(path).parts) - 1 - fixed, 0)]
        if not os.path.isdir(path) and not any(outputs.setdefault(each, is_output(each)) for each in folders):
            by_file.setdefault(os.path.realpath(path), path)
    return sorted(by_file.values())


def _read_list(file: Path, option: str) -> list[str]:
    """Paths in ``file``, one a line; relative ones are looked for beside the file, then from here."""
    try:
        content = file.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = content.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {file}: {error}") from error
    if "\0" in text:
        raise UsageError(f"{option} {file} holds a zero byte, so it is no list of paths")
    names = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    paths = []
    for name in names:
        spellings = [Path(name), Path(name.replace("\\", "/"))]
        places = [place for spelling in spellings for place in (file.parent / spelling, spelling)]
        paths.append(str(next((place for place in places if place.exists()), spellings[0])))
    return paths


def _read_coco(file: Path, root: str | None, option: str) -> tuple[list[str], list[int] | None, Path | None]:
    """Paths and ids of the ``images`` of a COCO JSON, and the folder they lie in; None for the deepest common one."""
    try:
        content = fields.read_json_object(file)
        images = fields.told("it", fields.entries, content, "images")
        subjects = [f"entry {position} of 'images'" for position in range(len(images))]
        names = [fields.told(*each) for each in zip(subjects, repeat(fields.file_name), images)]
        ids = [fields.told(*each) for each in zip(subjects, repeat(fields.identity), images, repeat("id"))]
        fields.refuse_duplicates(ids, "image id")
        fields.refuse_duplicates(names, "the photo")
        info = content["info"] if isinstance(content.get("info"), dict) else {}
        stated = fields.told("its 'info'", fields.text, info, "image_root", "")
    except DataError as error:
        raise UsageError(f"{option} {file} is no COCO JSON with images that have id and file_name: {error}") from error
    usual = [file.parent / stated] if stated else [file.parent, file.parent / "images", file.parent / file.stem]
    places = [Path(root).expanduser()] if root else usual
    base = next((place for place in places if names and (place / names[0]).exists()), None)
    if base is None:
        tried, name = ", ".join(map(str, places)), names[0] if names else "no image"
        raise UsageError(f"{option} {file}: {name!r} is not in {tried}; name it by --image-root")
    lead_out = any(name.startswith(("/", "../")) for name in names)
    numbered = [number for number in ids if isinstance(number, int)]
    paths = [os.path.normpath(base / name) for name in names]
    return paths, numbered if len(numbered) == len(ids) else None, None if lead_out and not root else base


def _common_folder(paths: Sequence[str]) -> Path:
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise UsageError("the photos share no folder; name one by --image-root") from error


def _number(
    paths: Sequence[str], ids: Sequence[int] | None, base: Path, passed_over: Mapping[str, tuple[str, ...]]
) -> PhotoSet:
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


def batches(photos: Sequence[Photo], size: int) -> Iterator[Sequence[Photo]]:
    """``photos`` in runs of ``size``, the last maybe shorter."""
    for start in range(0, len(photos), size):
        yield photos[start : start + size]
