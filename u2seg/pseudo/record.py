"""What a run leaves for people and programs: checksums, ``run.json`` and the closing summary."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import u2seg
from u2seg.errors import UsageError, printable
from u2seg.files import file_sha256, replacing, write_json
from u2seg.images import PhotoSet
from u2seg.panoptic import RUN_JSON
from u2seg.plugins.registry import installed_plugins
from u2seg.runtime import readable_seconds

VERSIONS = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pycocotools", "pluggy")
CHECKSUMS = "SHA256SUMS"
"""File with the sha256 of every file of the dataset."""
MOST_SKIPPED = 20
"""Photos without a label that the summary names."""


class Totals(NamedTuple):
    """What the entry of one photo, as the stage ``merge`` has left it, comes to; counts as of `Counts`."""

    png_sha256: str
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    masks: int
    things: int
    stuff: int
    void: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Totals:
        """Those of ``entry``; raises KeyError where it lacks a field."""
        things = sum(segment["isthing"] for segment in entry["segments"])
        counts = len(entry["instances"]), things, len(entry["segments"]) - things, entry["void"]
        return cls(entry["png_sha256"], entry["height"], entry["width"], *counts)


@dataclass
class Counts:
    """Sums over the photos of a dataset."""

    photos: int = 0
    masks: int = 0
    things: int = 0
    """Thing segments that are visible."""
    stuff: int = 0
    """Stuff segments."""
    void: int = 0
    """Pixels that are in no segment."""
    pixels: int = 0

    def add(self, photo: Totals) -> None:
        """Add a photo."""
        self.photos += 1
        self.masks += photo.masks
        self.things += photo.things
        self.stuff += photo.stuff
        self.void += photo.void
        self.pixels += photo.height * photo.width


@dataclass
class Summary(Counts):
    """What a run came to."""

    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of a photo without a label to the reason."""
    timings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def void_share(self) -> float:
        """Share of all pixels that are in no segment."""
        return self.void / max(self.pixels, 1)

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


def write_checksums(root: Path, digests: Mapping[str, str]) -> None:
    """Write ``digests``, name below ``root`` to sha256 of each file of the dataset, as ``sha256sum -c`` reads them."""
    with replacing(root / CHECKSUMS) as temporary, open(temporary, "wb") as file:
        for name, digest in digests.items():
            file.write(f"{digest}  {name}\n".encode("utf-8", "surrogateescape"))


def damaged_files(root: Path) -> dict[str, str]:
    """Files of the finished dataset in ``root`` that are not as they were written, each with what is wrong.

    Raises:
        UsageError: it is no finished dataset.
    """
    digests = read_checksums(root)
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


def read_checksums(root: Path) -> dict[str, str]:
    """Name of each file of the finished dataset in ``root`` to its sha256; empty where there is none."""
    try:
        text = (root / CHECKSUMS).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    pairs = (line.partition("  ") for line in text.splitlines())
    return {name: digest for digest, _, name in pairs if ".." not in Path(name).parts}


def write_run(root: Path, photos: PhotoSet, summary: Summary, record: Mapping[str, Any]) -> None:
    """Write ``run.json``. Timings and machine aside, the same settings and photos give the same.

    ``record`` is what the generator says of itself: ``config``, ``seed``, ``parts``, ``weights``, ``caveats``, ...
    """
    plugins = installed_plugins()
    versions = {"python": platform.python_version()} | dict.fromkeys(VERSIONS, "not installed")
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
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
        "versions": versions,
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "timings": dict(summary.timings),
    }
    write_json(root / RUN_JSON, {**usual, **record})
