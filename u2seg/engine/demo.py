"""What tools/demo.py does: photos or a film through a model, to pictures, a dataset of predictions, or a film."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import u2seg
from u2seg.errors import DataError, UsageError
from u2seg.files import claim_directory, in_words, replacing, write_png
from u2seg.images import Photo, PhotoSet
from u2seg.panoptic import INSTANCES_JSON, PANOPTIC_JSON, Entry, encode_ids, instance_entry, write_dataset
from u2seg.runtime import track

if TYPE_CHECKING:
    from av.container import InputContainer

    from u2seg.engine.predictor import Predictor
    from u2seg.engine.results import Prediction

logger = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Endings by which ``--output`` is taken for a file and not for a folder."""
KEPT = (".png", ".jpg", ".jpeg")
"""Endings of photos that their pictures keep; others become PNG."""
FRAMES_PER_SECOND = 25
"""Of a film that does not say."""


def picture_paths(photos: PhotoSet, output: str) -> dict[int, Path]:
    """Where the picture of each photo goes, by photo id; nowhere where ``output`` is empty.

    It is a file (by its ending, if there is one photo) or a folder. One that is new or empty is marked as an output of
    u2seg: what it holds is never taken for photos.

    Raises:
        UsageError: one file for many photos, or a picture would replace its photo.
    """
    if not output:
        return {}
    place = Path(output).expanduser()
    if place.suffix.lower() in PICTURES and not place.is_dir():
        if len(photos) > 1:
            raise UsageError(f"--output {output!r} is one file, but there are {len(photos)} photos: name a folder")
        paths = {photos.photos[0].id: place}
    else:
        paths = {p.id: place / (p.name if p.name.lower().endswith(KEPT) else f"{p.name}.png") for p in photos.photos}
    sources = {os.path.realpath(photo.path) for photo in photos.photos}
    for path in paths.values():
        if os.path.realpath(path) in sources:
            raise UsageError(f"--output {output!r} would replace the photo {path}; name another folder")
    if place not in paths.values() and not (place.exists() and any(place.iterdir())):
        claim_directory(place, "pictures")
    return paths


def segment_photos(
    predictor: Predictor, photos: PhotoSet, pictures: Mapping[int, Path], panoptic: str = ""
) -> dict[str, str]:
    """Segment ``photos``; write ``pictures``, paths by photo id, a dataset of the predictions, or both.

    The dataset has the layout of tools/generate_pseudo.py, for the gallery and tools/evaluate_pseudo.py. It replaces
    that of an earlier run in the folder ``panoptic``; "" for none.

    Returns:
        Path of each photo that could not be read to the reason; these are left out.

    Raises:
        U2SegError: nothing can be read or written.
    """
    root = claim_directory(panoptic, "predictions", "--save-panoptic") if panoptic else None
    entries: list[Entry] = []
    failures: dict[str, str] = {}
    try:
        for photo in track(photos.photos, "segment", len(photos)):
            try:
                prediction = predictor(photo.path)
            except DataError as error:
                failures[photo.path] = str(error)
                logger.warning("left out: %s", error)
                continue
            if root is not None:
                entries.append(_write_label(root, photo, prediction, is_first=not entries))
            if photo.id in pictures:
                prediction.save(pictures[photo.id])
    finally:  # an interrupted run leaves a dataset of what it has done
        if root is not None and entries:
            description = f"predictions of {predictor.cfg.MODEL.WEIGHTS} by u2seg {u2seg.__version__}"
            info = {"description": description, "image_root": str(photos.root)}
            write_dataset(root, info, predictor.names.categories(), lambda: entries)
    if len(failures) == len(photos):
        raise DataError(f"no photo could be read, {len(photos)} in all: {next(iter(failures.values()))}")
    return failures


def _write_label(root: Path, photo: Photo, prediction: Prediction, is_first: bool) -> Entry:
    """Write the PNG of ``photo`` and return what the JSON files will say of it; empty instances are left out."""
    if is_first:  # from here on the JSON files of an earlier run do not describe the PNGs
        for name in (PANOPTIC_JSON, INSTANCES_JSON):
            (root / name).unlink(missing_ok=True)
    write_png(root / "panoptic" / photo.label, encode_ids(prediction.panoptic))
    height, width = prediction.panoptic.shape
    image = {"id": photo.id, "file_name": photo.name, "height": height, "width": width}
    things, written_id = prediction.instances, prediction.names.written_id
    categories = map(written_id, things.category_ids.tolist())
    instances = map(instance_entry, things.masks, categories, things.scores.tolist())
    segments = [s.to_coco() | {"category_id": written_id(s.category_id)} for s in prediction.segments]
    return Entry(image, photo.label, segments, [instance for instance in instances if instance is not None])


def film_path(source: str, output: str) -> Path:
    """The MP4 file that ``output`` (that file, or a folder) stands for.

    Raises:
        UsageError: there is no film ``source``, or it would be replaced.
    """
    if not Path(source).is_file():
        raise UsageError(f"--video-input {source!r} does not exist")
    path = Path(output).expanduser()
    if path.suffix.lower() != ".mp4" or path.is_dir():
        path = path / f"{Path(source).stem}.mp4"
    if os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"--output {output!r} would replace the film itself; name another")
    return path


def segment_film(predictor: Predictor, source: str, path: Path) -> int:
    """Write the film ``source`` with its segments drawn to ``path`` (H.264, no sound); return the number of frames.

    Raises:
        UsageError: there is no PyAV, or ``path`` can't be written.
        DataError: ``source`` is no film.
    """
    try:
        import av
    except ImportError as error:
        raise UsageError("films need PyAV: pip install 'u2seg[video]'") from error
    try:
        film = av.open(source)
        stream = film.streams.video[0]
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"--video-input {source!r} is no film that PyAV can read") from error
    with film, in_words(path), replacing(path) as part, av.open(str(part), "w", format="mp4") as drawn:
        encoder = drawn.add_stream("libx264", rate=stream.guessed_rate or FRAMES_PER_SECOND)
        for count, frame in enumerate(track(_decode(film), Path(source).name, stream.frames, "frame"), start=1):
            picture = predictor(frame).draw()
            height, width = picture.shape[:2]
            # H.264 keeps colour at half the resolution, which takes even sides.
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            if count == 1:
                encoder.height, encoder.width, encoder.pix_fmt = *picture.shape[:2], "yuv420p"
            drawn.mux(encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        drawn.mux(encoder.encode())
    return count


def _decode(film: InputContainer) -> Iterator[np.ndarray]:
    """Frames uint8 (H, W, 3) RGB, upright; a DataError if there is not one."""
    # PyAV itself and not imageio over it, which drops the rotation that phones note instead of turning the pixels.
    import av

    count = 0
    try:
        for frame in film.decode(video=0):
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
            count += 1
    except av.FFmpegError as error:
        logger.warning("%s: what follows frame %d is damaged and left out (%s)", film.name, count, error)
    if not count:
        raise DataError(f"{film.name}: no frame can be read")
