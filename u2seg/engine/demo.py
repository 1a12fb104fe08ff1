"""What tools/demo.py does: photos, a film or a camera through a model, to files or a window."""

from __future__ import annotations

import glob
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from u2seg.engine import video
from u2seg.errors import DataError, UsageError
from u2seg.images import Photo, PhotoSet, find_photos
from u2seg.runtime import Progress

if TYPE_CHECKING:
    from u2seg.engine.predictor import Predictor
    from u2seg.engine.saving import PanopticWriter

logger = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Endings by which ``--output`` is taken for a file and not for a folder."""
KEPT = (".png", ".jpg", ".jpeg")
"""Endings of photos that overlays keep; others become PNG."""
FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")


@dataclass
class Outcome:
    """What came of a run over photos."""

    written: list[Path] = field(default_factory=list)
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Name of a photo to the reason why it was left out."""


def find_inputs(inputs: Sequence[str]) -> PhotoSet:
    """The photos that ``--input`` names: files, folders or patterns.

    Raises:
        UsageError: one of them matches nothing.
    """
    paths: dict[str, None] = {}
    for entry in inputs:
        text = os.path.expanduser(entry)
        if not os.path.exists(text) and not glob.glob(text, recursive=True):
            raise UsageError(f"--input {entry!r} matches no file")
        paths |= dict.fromkeys(photo.path for photo in find_photos(text).photos)
    if len(inputs) == 1:
        return find_photos(os.path.expanduser(inputs[0]))
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    names = [Path(os.path.relpath(path, root)).as_posix() for path in paths]
    stems = [os.path.splitext(name)[0].lower() for name in names]
    photos = []
    for index, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        alone = stems.count(os.path.splitext(name)[0].lower()) == 1
        photos.append(Photo(index, name, path, f"{os.path.splitext(name)[0] if alone else name}.png"))
    return PhotoSet(root, tuple(photos))


def overlay_paths(photos: PhotoSet, output: str) -> dict[int, Path]:
    """Where the overlay of each photo goes, by photo id.

    Args:
        photos: the photos.
        output: a file (by its ending, if there is one photo), or a folder.

    Raises:
        UsageError: one file for many photos, or an overlay would replace its photo.
    """
    place = Path(output).expanduser()
    if place.suffix.lower() in PICTURES and not place.is_dir():
        if len(photos) > 1:
            raise UsageError(f"--output {output!r} is one file, but there are {len(photos)} photos: name a folder")
        paths = {photos.photos[0].id: place}
    else:
        paths = {p.id: place / (p.name if p.name.lower().endswith(KEPT) else f"{p.name}.png") for p in photos.photos}
    given = {os.path.realpath(photo.path) for photo in photos.photos}
    for path in paths.values():
        if os.path.realpath(path) in given:
            raise UsageError(f"--output {output!r} would replace the photo {path}; name another folder")
    return paths


def run_photos(predictor: Predictor, photos: PhotoSet, output: str = "", panoptic: str = "") -> Outcome:
    """Segment photos; write overlays and a dataset of the predictions, or show them in a window if neither is wanted.

    Args:
        predictor: the model.
        photos: the photos; one that can't be read is left out, counted and logged.
        output: file or folder of the overlays, "" for none.
        panoptic: folder of the dataset, "" for none.

    Raises:
        U2SegError: nothing can be read or written.
    """
    from u2seg.engine.saving import PanopticWriter

    paths = overlay_paths(photos, output) if output else {}
    for folder in {path.parent for path in paths.values()}:
        make_folder(folder)
    writer = PanopticWriter(panoptic, photos.root, predictor.names) if panoptic else None
    if not output and not panoptic:
        video.open_window()
    outcome = Outcome()
    try:
        with Progress("segment", len(photos)) as progress:
            for photo in photos.photos:
                if not _run_photo(predictor, photo, paths.get(photo.id), writer, outcome):
                    break
                progress.advance()
    finally:
        if writer is not None and outcome.done:
            outcome.written.append(writer.finish(str(predictor.source)))
    if not outcome.done and outcome.failed:
        name, reason = next(iter(outcome.failed.items()))
        more = f" (and {len(outcome.failed) - 1} others)" if len(outcome.failed) > 1 else ""
        raise DataError(f"no photo could be read: {name}: {reason}{more}")
    return outcome


def _run_photo(
    predictor: Predictor, photo: Photo, path: Path | None, writer: PanopticWriter | None, outcome: Outcome
) -> bool:
    """Segment one photo; return False where the user wants no more."""
    try:
        prediction = predictor(photo.path)
    except DataError as error:
        reason = str(error).removeprefix(f"photo {photo.path}: ")
        outcome.failed[photo.path] = reason
        logger.warning("%s left out: %s", photo.path, reason)
        return True
    outcome.done += 1
    things = sum(segment.isthing for segment in prediction.segments)
    logger.debug("%s: %d things, %d of stuff", photo.name, things, len(prediction.segments) - things)
    if writer is not None:
        writer.add(photo, prediction)
    if path is not None:
        outcome.written.append(prediction.save(path))
    if path is None and writer is None:
        return video.show_picture(prediction.draw()[:, :, ::-1])
    return True


def run_film(predictor: Predictor, source: str | int, output: str = "") -> tuple[int, Path | None]:
    """Segment a film (its path) or a camera (its number); write an MP4, or show it in a window.

    Returns:
        How many frames, and the file.

    Raises:
        U2SegError: it can't be read, written or shown.
    """
    import cv2

    with video.opened(source) as capture:
        target = film_path(source, output) if output else None
        if target is None:
            video.open_window()
        else:
            make_folder(target.parent)
        title = source if isinstance(source, str) else f"camera {source}"
        drawn = _draw(predictor, video.frames(capture, title))
        if target is None:
            return video.show_film(drawn), None
        rate = capture.get(cv2.CAP_PROP_FPS)
        return video.write_film(drawn, target, rate, keep_interrupted=isinstance(source, int)), target


def film_path(source: str | int, output: str) -> Path:
    """The MP4 file that ``output`` (that file, or a folder) stands for.

    Raises:
        UsageError: it is the film that is read, or would be no MP4.
    """
    path = Path(output).expanduser()
    if path.suffix.lower() not in FILMS or path.is_dir():
        stem = Path(source).stem if isinstance(source, str) else f"camera_{source}"
        path = path / f"{stem}.mp4"
    if path.suffix.lower() not in (".mp4", ".m4v"):
        raise UsageError(f"--output {output!r}: films are written as .mp4")
    if isinstance(source, str) and os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"--output {output!r} would replace the film itself; name another")
    return path


def _draw(predictor: Predictor, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield predictor(np.ascontiguousarray(frame[:, :, ::-1])).draw()[:, :, ::-1]


def quiet() -> None:
    """Keep torch's notes to its own developers off the terminal; called by tools, before Detectron2 is loaded."""
    warnings.filterwarnings("ignore", module=r"torch\.")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and try that it can be written.

    Raises:
        UsageError: it can't.
    """
    probe = folder / f".u2seg.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--output {str(folder)!r} can't be written: {error.strerror or error}") from error
