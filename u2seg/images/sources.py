"""Where photos are named: in folders, by patterns, in lists and in COCO JSON files."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from u2seg import fields
from u2seg.errors import DataError, UsageError
from u2seg.files import is_output
from u2seg.images.reading import EXTENSIONS


class Listed(NamedTuple):
    """The photos that one source names."""

    paths: list[str]
    ids: list[int] | None = None
    """Of the photos, where the source numbers them."""
    folder: Path | None = None
    """That the photos are relative to, where that is clear."""
    passed_over: Mapping[str, tuple[str, ...]] = {}
    """A key of `u2seg.images.finding.REASONS` to the names, below the folder, of what was not taken."""


def list_photos(images: str, root: str | None, option: str, output: str) -> Listed:
    """What ``images`` names, see `u2seg.images.finding.find_photos`; ``output`` is a real path, or ""."""
    source = Path(images).expanduser()
    if source.is_dir():
        _refuse_output(source, images, option)
        return _walk(source, output)
    if source.is_file() and source.suffix.lower() == ".json":
        return _read_coco(source, root, option)
    if source.is_file() and source.suffix.lower() == ".txt":
        return Listed(_read_list(source, option))
    if source.is_file():
        return Listed([str(source)], folder=source.parent)
    if any(mark in images for mark in "*?["):
        _refuse_output(_fixed_folder(str(source)), images, option)
        return Listed(_match(str(source), output))
    raise UsageError(f"{option} {images!r} does not exist; give a folder, a 'pattern*', a .txt list or a COCO .json")


def _refuse_output(folder: Path, images: str, option: str) -> None:
    """Raise UsageError if ``folder`` is an output of u2seg, or holds the PNGs of one: these are no photos."""
    folder = folder.absolute()
    labelled = [place.parent for place in (folder, *folder.parents) if place.name == "panoptic"]
    if any(is_output(place) for place in (folder, *labelled)):
        raise UsageError(f"{option} {images!r} is an output of u2seg, not photos; name the folder of the photos")


def _fixed_folder(pattern: str) -> Path:
    """The folder that ``pattern`` names before its first mark."""
    return Path(re.split(r"[*?[]", pattern)[0] + "_").parent


def _walk(top: Path, output: str) -> Listed:
    """Photos below ``top`` by name, each real file once, and what was passed over."""
    photos: list[str] = []
    links: list[str] = []
    passed_over: defaultdict[str, list[str]] = defaultdict(list)
    real_top = os.path.realpath(top)
    folders = [str(top)]
    while folders:
        folder = folders.pop()
        if folder != str(top) and (is_output(folder) or os.path.realpath(folder) == output):
            passed_over["output"].append(folder)
            continue
        try:
            entries = list(os.scandir(folder))
        except OSError:
            passed_over["folder"].append(folder)
            continue
        for entry in entries:
            ending = os.path.splitext(entry.name)[1].lower()
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_top):
                passed_over["link"].append(entry.path)
            elif entry.is_dir():  # a link to a folder below this one adds nothing
                folders += [entry.path] if not (entry.is_symlink() or entry.name.startswith(".")) else []
            elif ending not in EXTENSIONS or entry.name.startswith("."):
                passed_over["ending"].append(entry.path)
            else:
                (links if entry.is_symlink() else photos).append(entry.path)
    photos += _each_file_once(links, {os.path.realpath(path) for path in photos} if links else set())
    names = {reason: tuple(sorted(os.path.relpath(p, top) for p in paths)) for reason, paths in passed_over.items()}
    return Listed(sorted(photos), folder=top, passed_over=names)


def _each_file_once(paths: Iterable[str], known: set[str]) -> list[str]:
    """Those of ``paths`` that are not, through links, among the files ``known`` or an earlier one."""
    first: dict[str, str] = {}
    for path in sorted(paths):
        first.setdefault(os.path.realpath(path), path)
    return [path for file, path in first.items() if file not in known]


def _match(pattern: str, output: str) -> list[str]:
    """Files that ``pattern`` matches, but for those in outputs of u2seg that it reaches into, each real file once."""
    fixed = len(_fixed_folder(pattern).parts)
    is_output_folder = cache(lambda folder: is_output(folder) or os.path.realpath(folder) == output)

    def is_photo(path: str) -> bool:
        folders = Path(path).parents[: max(len(Path(path).parts) - 1 - fixed, 0)]
        return not os.path.isdir(path) and not any(map(is_output_folder, folders))

    return sorted(_each_file_once(filter(is_photo, glob.glob(pattern, recursive=True)), set()))


def _read_list(file: Path, option: str) -> list[str]:
    """Paths in ``file``, one a line; relative ones are looked for beside the file, then from here."""
    try:
        text = file.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{option} {file}: {error}") from error
    if "\0" in text:
        raise UsageError(f"{option} {file} holds a zero byte, so it is no list of paths in UTF-8")
    names = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    paths = []
    for name in names:
        spellings = [Path(name), Path(name.replace("\\", "/"))]
        places = [place for spelling in spellings for place in (file.parent / spelling, spelling)]
        paths.append(str(next((place for place in places if place.exists()), spellings[0])))
    return paths


def _read_coco(file: Path, root: str | None, option: str) -> Listed:
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
        stated = fields.told("its 'info'", fields.file_name, info, "image_root") if info.get("image_root") else ""
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
    return Listed(paths, numbered if len(numbered) == len(ids) else None, None if lead_out and not root else base)
