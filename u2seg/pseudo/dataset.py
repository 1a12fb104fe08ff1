"""The dataset's own files: ``panoptic.json``, ``instances.json``, ``run.json``, and the closing summary."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import u2seg
from u2seg.images import Photo, PhotoSet
from u2seg.plugins.registry import installed_plugins
from u2seg.pseudo import parts
from u2seg.pseudo.stage_files import merge_file
from u2seg.pseudo.store import OutputDirectory
from u2seg.runtime import readable_seconds
from u2seg.structures import LabelSpace

VERSIONS = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pycocotools", "pluggy")


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
        stages = ", ".join(f"{stage} {readable_seconds(note['seconds'])}" for stage, note in self.timings.items())
        lines = [
            f"labelled {self.photos} photos: {self.masks} masks; {self.things / count:.1f} things and "
            f"{self.stuff / count:.1f} stuff segments a photo; {100 * self.void_share:.1f} % of the pixels void",
            f"time: {stages}",
        ]
        if self.skipped:
            lines.append(f"{len(self.skipped)} photos have no label:")
            shown = list(self.skipped.items())[:20]
            lines += [f"  {name}: {reason}" for name, reason in shown]
            if len(self.skipped) > len(shown):
                lines.append(f"  and {len(self.skipped) - len(shown)} more, all in run.json")
        return lines


def write_dataset(
    output: OutputDirectory,
    given: PhotoSet,
    photos: Sequence[Photo],
    failures: Mapping[int, str],
    settings: parts.Settings,
    weights: Sequence[Mapping[str, Any]],
    timings: Mapping[str, Mapping[str, Any]],
    record: Mapping[str, Any] = {},
) -> Summary:
    """Write the JSON files of the dataset from what the merge stage left.

    Args:
        output: the run's directory.
        given: all photos of the run.
        photos: those that have a label.
        failures: photo id to the reason why it has none.
        settings: the ``U2SEG`` tree.
        weights: what the feature extractors said of their weights.
        timings: seconds by stage and part.
        record: what ``run.json`` says besides, or instead of, its usual entries.

    Returns:
        The summary.
    """
    space = LabelSpace(settings["NUM_THINGS"], settings["NUM_STUFF"])
    caveats = sorted({str(entry["caveat"]) for entry in weights if entry.get("caveat")})
    info = {
        "description": f"pseudo labels made by u2seg {u2seg.__version__}; no human looked at them",
        "image_root": str(given.root),
        "caveats": caveats,
    }
    categories = {"categories": space.categories()}
    lists = {"images": _images(output, photos), "annotations": _panoptic(output, photos)}
    output.write_json_lists(output.root / "panoptic.json", {"info": info, **categories}, lists)
    things = {"categories": [entry for entry in space.categories() if entry["isthing"]]}
    lists = {"images": _images(output, photos), "annotations": _instances(output, photos)}
    output.write_json_lists(output.root / "instances.json", {"info": info, **things}, lists)
    names = {photo.id: photo.name for photo in given.photos}
    skipped = {names[key]: failures[key] for key in sorted(failures)}
    summary = _count(output, photos, skipped, timings)
    usual = _record(given, summary, settings, weights, caveats)
    output.write_json(output.root / "run.json", {**usual, **record})
    return summary


def _entries(output: OutputDirectory, photos: Sequence[Photo]) -> Iterator[tuple[Photo, dict[str, Any]]]:
    for photo in photos:
        yield photo, json.loads(merge_file(output, photo).read_bytes())


def _images(output: OutputDirectory, photos: Sequence[Photo]) -> Iterator[dict[str, Any]]:
    for photo, entry in _entries(output, photos):
        yield {"id": photo.id, "file_name": photo.name, "height": entry["height"], "width": entry["width"]}


def _panoptic(output: OutputDirectory, photos: Sequence[Photo]) -> Iterator[dict[str, Any]]:
    for photo, entry in _entries(output, photos):
        yield {"image_id": photo.id, "file_name": photo.label, "segments_info": entry["segments"]}


def _instances(output: OutputDirectory, photos: Sequence[Photo]) -> Iterator[dict[str, Any]]:
    count = 0
    for photo, entry in _entries(output, photos):
        for instance in entry["instances"]:
            count += 1
            yield {"id": count, "image_id": photo.id, **instance}


def _count(
    output: OutputDirectory,
    photos: Sequence[Photo],
    skipped: Mapping[str, str],
    timings: Mapping[str, Mapping[str, Any]],
) -> Summary:
    masks = things = stuff = void = pixels = 0
    for _, entry in _entries(output, photos):
        masks += len(entry["instances"])
        visible = sum(segment["isthing"] for segment in entry["segments"])
        things += visible
        stuff += len(entry["segments"]) - visible
        void += entry["void"]
        pixels += entry["height"] * entry["width"]
    return Summary(len(photos), skipped, masks, things, stuff, void / max(pixels, 1), timings)


def _record(
    given: PhotoSet,
    summary: Summary,
    settings: parts.Settings,
    weights: Sequence[Mapping[str, Any]],
    caveats: Sequence[str],
) -> dict[str, Any]:
    """The content of ``run.json``. Timings and machine aside, the same settings and photos give the same."""
    plugins = installed_plugins()
    return {
        "u2seg": u2seg.__version__,
        "config": {"U2SEG": settings},
        "seed": settings["SEED"],
        "parts": parts.distributions(settings),
        "plugins": plugins.distributions,
        "plugins_disabled": plugins.disabled,
        "plugins_broken": [str(broken) for broken in plugins.broken],
        "weights": {"things": weights[0], "stuff": weights[1]},
        "caveats": list(caveats),
        "photos": {
            "root": str(given.root),
            "given": len(given),
            "labelled": summary.photos,
            "files_with_other_endings": given.ignored,
            "named_twice": given.repeated,
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


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
