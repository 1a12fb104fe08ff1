"""What a run leaves for people and programs: the dataset's JSON files, ``run.json`` and the closing summary."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import u2seg
from u2seg.errors import UsageError, printable
from u2seg.files import file_sha256, write_bytes, write_json
from u2seg.images import Photo, PhotoSet
from u2seg.panoptic import INSTANCES_JSON, PANOPTIC_JSON, RUN_JSON, Entry, write_dataset
from u2seg.plugins.registry import installed_plugins
from u2seg.runtime import readable_seconds
from u2seg.structures import LabelSpace

VERSIONS = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pycocotools", "pluggy")
CHECKSUMS = "SHA256SUMS"
"""File with the sha256 of every file of the dataset."""
MOST_SKIPPED = 20
"""Photos without a label that the summary names."""


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    photos: int
    skipped: Mapping[str, str]
    """Name of a photo without a label to the reason."""
    masks: int
    things: int
    """Thing segments that are visible."""
    stuff: int
    """Stuff segments."""
    void_share: float
    """Share of all pixels that are in no segment."""
    timings: Mapping[str, Mapping[str, Any]]

    def lines(self) -> list[str]:
        """The summary for people."""
        count = max(self.photos, 1)
        stages = ", ".join(f"{stage} {readable_seconds(notes['seconds'])}" for stage, notes in self.timings.items())
        lines = [
            f"labelled {self.photos} photos: {self.masks} masks; {self.things / count:.1f} things and "
            f"{self.stuff / count:.1f} stuff segments a photo; {100 * self.void_share:.1f} % of the pixels void",
            f"time: {stages}",
        ]
        if self.skipped:
            lines.append(f"{len(self.skipped)} photos have no label:")
            shown = list(self.skipped.items())[:MOST_SKIPPED]
            lines += [f"  {' '.join(printable(name).split())}: {printable(reason)}" for name, reason in shown]
            if len(self.skipped) > MOST_SKIPPED:
                lines.append(f"  and {len(self.skipped) - MOST_SKIPPED} more, all in {RUN_JSON}")
        return lines


def write_labels(
    root: Path,
    photo_root: Path,
    space: LabelSpace,
    caveats: Sequence[str],
    entries: Callable[[], Iterable[tuple[Photo, dict[str, Any]]]],
) -> None:
    """Write ``panoptic.json`` and ``instances.json``; PNGs of photos that are gone are removed.

    Args:
        root: the output directory.
        photo_root: folder that photo names are relative to.
        space: numbers the categories.
        caveats: what must be said against calling the labels unsupervised.
        entries: photos and what the merge stage left of each.
    """
    info = {
        "description": f"pseudo labels made by u2seg {u2seg.__version__}; no human looked at them",
        "image_root": str(photo_root),
        "caveats": list(caveats),
    }
    before = _checksums(root)

    def as_entries() -> Iterable[Entry]:
        for photo, entry in entries():
            image = {"id": photo.id, "file_name": photo.name, "height": entry["height"], "width": entry["width"]}
            yield Entry(image, photo.label, entry["segments"], entry["instances"])

    write_dataset(root, info, space.categories(), as_entries)
    current = {f"panoptic/{photo.label}" for photo, _ in entries()}
    for name in before.keys() - current - {PANOPTIC_JSON, INSTANCES_JSON}:
        (root / name).unlink(missing_ok=True)


def write_checksums(root: Path, pngs: Mapping[str, str]) -> None:
    """Write the sha256 of every file of the dataset, as ``sha256sum -c`` reads them.

    Args:
        root: the output directory.
        pngs: name of each file in ``panoptic/`` to its sha256.
    """
    digests = {name: file_sha256(root / name) for name in (PANOPTIC_JSON, INSTANCES_JSON)}
    digests |= {f"panoptic/{name}": digest for name, digest in pngs.items()}
    lines = (f"{digest}  {name}\n" for name, digest in digests.items())
    write_bytes(root / CHECKSUMS, "".join(lines).encode("utf-8", "surrogateescape"))


def damaged_files(root: Path) -> dict[str, str]:
    """Files of the finished dataset in ``root`` that are not as they were written, each with what is wrong.

    Raises:
        UsageError: it is no finished dataset.
    """
    digests = _checksums(root)
    if not digests:
        raise UsageError(f"{str(root)!r} holds no finished labels: there is no {CHECKSUMS}")
    damaged = {}
    for name, digest in digests.items():
        try:
            if file_sha256(root / name) != digest:
                damaged[name] = "changed since it was written"
        except OSError as error:
            damaged[name] = error.strerror or str(error)
    return damaged


def _checksums(root: Path) -> dict[str, str]:
    """Name of each file of the finished dataset in ``root`` to its sha256; empty where there is none."""
    try:
        text = (root / CHECKSUMS).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    pairs = (line.partition("  ") for line in text.splitlines())
    return {name: digest for digest, _, name in pairs if ".." not in Path(name).parts}


def summarise(
    entries: Iterable[tuple[Photo, dict[str, Any]]],
    skipped: Mapping[str, str],
    timings: Mapping[str, Mapping[str, Any]],
) -> Summary:
    """Count what is in ``entries``."""
    photos = masks = things = stuff = void = pixels = 0
    for _, entry in entries:
        photos += 1
        masks += len(entry["instances"])
        visible = sum(segment["isthing"] for segment in entry["segments"])
        things += visible
        stuff += len(entry["segments"]) - visible
        void += entry["void"]
        pixels += entry["height"] * entry["width"]
    return Summary(photos, skipped, masks, things, stuff, void / max(pixels, 1), timings)


def write_run(root: Path, photos: PhotoSet, summary: Summary, record: Mapping[str, Any]) -> None:
    """Write ``run.json``. Timings and machine aside, the same settings and photos give the same.

    Args:
        root: the output directory.
        photos: all photos of the run.
        summary: what it came to.
        record: what the generator says of itself: ``config``, ``seed``, ``parts``, ``weights``, ``caveats``, ...
    """
    plugins = installed_plugins()
    usual = {
        "u2seg": u2seg.__version__,
        "plugins": plugins.distributions,
        "plugins_disabled": plugins.disabled,
        "plugins_broken": [str(broken) for broken in plugins.broken],
        "photos": {
            "root": str(photos.root),
            "given": len(photos),
            "labelled": summary.photos,
            "passed_over": {reason: len(names) for reason, names in sorted(photos.passed_over.items())},
            "named_twice": photos.repeated,
        },
        "skipped": [{"file": name, "reason": reason} for name, reason in summary.skipped.items()],
        "counts": {
            "masks": summary.masks,
            "things": summary.things,
            "stuff": summary.stuff,
            "void_share": round(summary.void_share, 6),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "timings": dict(summary.timings),
    }
    write_json(root / RUN_JSON, {**usual, **record})


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
