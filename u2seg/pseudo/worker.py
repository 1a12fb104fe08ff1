"""What a worker process does to photos: features for fitting, masks and stuff, panoptic labels.

Every function here can travel to another process, and leaves what it made on disk, a file for each photo.

Shapes: ``H, W`` pixels at which a photo is labelled (its own size, or smaller: ``U2SEG.INPUT.MAX_PIXELS``); ``D, h, w``
features; ``N`` masks.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, PluginError, UsageError
from u2seg.files import file_sha256, write_arrays, write_checked, write_png
from u2seg.images import Photo, batches, enlarge, read_shrunk
from u2seg.panoptic import encode_ids, instance_entry
from u2seg.plugins.blame import at_photo, print_traceback
from u2seg.pseudo.embeddings import cluster_ids, embed_masks
from u2seg.pseudo.features.shared import extract_each
from u2seg.pseudo.fitted import read_fitted
from u2seg.pseudo.intermediate import (
    DamagedFileError,
    Intermediate,
    MaskRecord,
    read_arrays,
    read_masks,
    read_stuff,
    write_masks,
    write_stuff,
)
from u2seg.pseudo.learning import MEAN_CENTRES
from u2seg.pseudo.masks.crops import View, choose, corner_boxes, whole_box, whole_things
from u2seg.pseudo.merge import merge_segments
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.refine.masks import refine_masks, refine_stuff
from u2seg.runtime import bounded_threads, worker_device
from u2seg.structures import LabelSpace, MaskSet

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of the photos of a job."""

    failures: dict[int, str] = field(default_factory=dict)
    """Photo id to the reason why nothing was made of it."""
    damaged: list[str] = field(default_factory=list)
    """Keys of photos whose intermediate files were damaged, and deleted."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Wall seconds of work by part."""
    processor: Counter[str] = field(default_factory=Counter)
    """Processor seconds of work by part, which other programs on the machine hardly change."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's seconds to ``part``."""
        started, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started  # type: ignore[assignment]
            self.processor[part] += time.process_time() - processor  # type: ignore[assignment]

    def attempt(self, photos: Sequence[Photo], work: Callable[[Sequence[Photo]], None]) -> None:
        """Call ``work`` on ``photos`` together; where it fails, on each alone, and note those that fail alone.

        What the user has to mend before anything works (settings, plugins, the output) is not caught.
        """
        try:
            work(photos)
        except PluginError as error:
            raise at_photo(error, photos[0].name) from error
        except (UsageError, OSError):
            raise
        except (Exception, SystemExit) as error:  # what breaks on a photo must not cost the others their labels
            if len(photos) > 1:
                for photo in photos:
                    self.attempt([photo], work)
                return
            print_traceback(photos[0].name)
            self.failures[photos[0].id] = (
                str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            )


@dataclass(frozen=True)
class Job:
    """Photos to take through one stage, and where its files go."""

    recipe: Recipe
    photos: tuple[Photo, ...]
    keys: Mapping[int, str]
    """Photo id to the name of its intermediate files."""
    features: Intermediate
    masks: Intermediate
    stuff: Intermediate
    merge: Intermediate
    root: Path
    """The output directory, where ``stuff.npz`` and ``clusters.npz`` are."""

    @property
    def device(self) -> str:
        """The torch device of this worker."""
        return worker_device(self.recipe.device)


@dataclass(frozen=True)
class _Pixels:
    """A photo as it is labelled."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    size: tuple[int, int]
    """The photo's own height and width."""


def read_photos(photos: Sequence[Photo], outcome: Outcome, recipe: Recipe) -> list[tuple[Photo, _Pixels]]:
    """Those of ``photos`` that can be read, at the size to label; the others are noted in ``outcome``."""
    readable: list[tuple[Photo, _Pixels]] = []

    def read(group: Sequence[Photo]) -> None:
        (photo,) = group
        try:
            image, size = read_shrunk(photo.path, recipe.max_pixels, recipe.max_decoded_pixels)
        except DataError:
            check_folder(os.path.dirname(photo.path))
            raise
        readable.append((photo, _Pixels(image, size)))

    with outcome.timed("read"):
        for photo in photos:
            outcome.attempt([photo], read)
    return readable


def check_folder(folder: str) -> None:
    """Raise OSError if ``folder``, of a photo that can't be read, is gone, empty or closed: an unmounted disk, say."""
    with os.scandir(folder) as entries:
        if next(entries, None) is None:
            raise OSError(errno.ENOENT, "the photos have gone; is their disk still mounted?", folder)


def keep_features(job: Job) -> Outcome:
    """Write the features of each photo: for fitting the stuff segmenter, and so that no photo needs a second pass."""
    outcome = Outcome()

    def work(group: Sequence[Photo]) -> None:
        readable = read_photos(group, outcome, job.recipe)
        things = any(not job.masks.has(job.keys[photo.id]) for photo in group)
        with outcome.timed("features"):
            extracted = _extract(job, [pixels.image for _, pixels in readable], things, True)
        for (photo, _), features in zip(readable, extracted, strict=True):
            write_arrays(job.features.path(job.keys[photo.id]), features)

    with bounded_threads(job.recipe.executor.threads):
        for batch in batches(job.photos, job.recipe.executor.batch_size):
            if not all(job.features.has(job.keys[photo.id]) for photo in batch):
                outcome.attempt(batch, work)
    return outcome


def _extract(job: Job, images: Sequence[np.ndarray], things: bool, stuff: bool) -> list[dict[str, np.ndarray]]:
    """``things`` and ``stuff`` features float32 (D, h, w) of each image, by one pass of the network if it can be."""
    extractors = dict(zip(("things", "stuff"), job.recipe.extractors(job.device), strict=True))
    roles = [role for role, needed in (("things", things), ("stuff", stuff)) if needed]
    by_role = extract_each([extractors[role] for role in roles], images)
    return [dict(zip(roles, features, strict=True)) for features in zip(*by_role, strict=True)]


def label_photos(job: Job) -> Outcome:
    """Make the masks with their vectors, and the stuff map, of each photo: read once, one pass of the network."""
    outcome = Outcome()
    with bounded_threads(job.recipe.executor.threads):
        for batch in batches(job.photos, job.recipe.executor.batch_size):
            things = any(not job.masks.has(job.keys[photo.id]) for photo in batch)
            stuff = any(not job.stuff.has(job.keys[photo.id]) for photo in batch)
            if things or stuff:
                outcome.attempt(batch, partial(_label, job, outcome, things=things, stuff=stuff))
    return outcome


def _label(job: Job, outcome: Outcome, photos: Sequence[Photo], *, things: bool, stuff: bool) -> None:
    readable = read_photos(photos, outcome, job.recipe)
    with outcome.timed("features"):
        features = _kept_features(job, readable, things, stuff)
        if features is None:
            features = _extract(job, [pixels.image for _, pixels in readable], things, stuff)
    masks: list[MaskSet] = []
    if things:
        with outcome.timed("masks"):
            masks = _generate(job, [pixels.image for _, pixels in readable], [f["things"] for f in features])
    for index, (photo, pixels) in enumerate(readable):
        key = job.keys[photo.id]

        def finish(group: Sequence[Photo], index: int = index, pixels: _Pixels = pixels, key: str = key) -> None:
            if things:
                record = _refine_and_embed(job, outcome, pixels, features[index]["things"], masks[index])
                write_masks(job.masks.path(key), record)
            if stuff:
                write_stuff(job.stuff.path(key), _segment(job, outcome, pixels, features[index]["stuff"]))
            job.features.path(key).unlink(missing_ok=True)

        outcome.attempt([photo], finish)


def _kept_features(
    job: Job, readable: Sequence[tuple[Photo, _Pixels]], things: bool, stuff: bool
) -> list[dict[str, np.ndarray]] | None:
    """What `keep_features` has left of all of these photos, or None where something is missing."""
    roles = [role for role, needed in (("things", things), ("stuff", stuff)) if needed]
    try:
        kept = [read_arrays(job.features.path(job.keys[photo.id])) for photo, _ in readable]
    except DamagedFileError:
        return None
    return kept if all(role in features for features in kept for role in roles) else None


def _generate(job: Job, images: list[np.ndarray], features: list[np.ndarray]) -> list[MaskSet]:
    generator = job.recipe.mask_generator(job.device)
    if len(images) > 1 and hasattr(generator, "generate_batch"):
        return generator.generate_batch(images, features)
    return [generator.generate(image, feature) for image, feature in zip(images, features, strict=True)]


def _refine_and_embed(job: Job, outcome: Outcome, pixels: _Pixels, features: np.ndarray, coarse: MaskSet) -> MaskRecord:
    recipe = job.recipe
    extractor, _ = recipe.extractors(job.device)
    views = [(whole_box(pixels.image), coarse)]
    if recipe.crops:
        views = _add_crops(job, outcome, pixels.image, views)
    with outcome.timed("refine"):
        masks = _refine_views(job, pixels.image, views)
    with outcome.timed("embed"):
        arguments = recipe.crop_size, recipe.cluster_min_score
        vectors = embed_masks(recipe.embedding, extractor, pixels.image, features, masks, *arguments)
    return MaskRecord(masks, vectors, pixels.size, {})


def _add_crops(job: Job, outcome: Outcome, image: np.ndarray, views: list[View]) -> list[View]:
    """``views`` and the crops of the photo, each with those of its masks on the grid that are worth keeping."""
    height, width = image.shape[:2]
    boxes = corner_boxes(height, width, job.recipe.crops)
    crops = [np.ascontiguousarray(box.of(image)) for box in boxes]
    with outcome.timed("features of crops"):
        extractor, _ = job.recipe.extractors(job.device)
        features = extractor.extract(crops)
    with outcome.timed("masks of crops"):
        masks = _generate(job, crops, features)
        views = views + [(box, whole_things(m, box, height, width)) for box, m in zip(boxes, masks, strict=True)]
        kept = choose(views, height, width)
    return [(box, masks.take(index)) for (box, masks), index in zip(views, kept, strict=True)]


def _refine_views(job: Job, image: np.ndarray, views: Sequence[View]) -> MaskSet:
    """All masks at the pixels of ``image`` uint8 (H, W, 3), each refined inside its own view."""
    refiner, _ = job.recipe.refiners(job.device)
    masks, scores = [], []
    for box, coarse in views:
        view = np.ascontiguousarray(box.of(image))
        refined = refine_masks(refiner, view, coarse, job.recipe.min_refined_iou, job.recipe.keep_rough)
        whole = np.zeros((len(refined), *image.shape[:2]), bool)
        whole[:, box.top : box.bottom, box.left : box.right] = refined.masks
        masks.append(whole)
        scores.append(refined.scores)
    return MaskSet(np.concatenate(masks), np.concatenate(scores))


def _segment(job: Job, outcome: Outcome, pixels: _Pixels, features: np.ndarray) -> np.ndarray:
    with outcome.timed("stuff"):
        segmenter = _fitted_segmenter(job.recipe, job.device, str(job.root), job.stuff.fingerprint)
        classes = segmenter.segment(pixels.image, features)
    with outcome.timed("refine stuff"):
        return refine_stuff(job.recipe.refiners(job.device)[1], pixels.image, classes)


@lru_cache(maxsize=1)
def _fitted_segmenter(recipe: Recipe, device: str, root: str, fingerprint: str) -> Any:
    """The segmenter with what was fitted; ``fingerprint`` tells what one fit has learnt from the next."""
    return recipe.build_stuff_segmenter(device).load_state(read_fitted(Path(root) / "stuff.npz").state)


@lru_cache(maxsize=1)
def _fitted_clusterer(recipe: Recipe, root: str, fingerprint: str) -> tuple[Any, np.ndarray]:
    """The clusterer with what was learnt, and centres of mean features; ``fingerprint`` tells one set from the next."""
    state = read_fitted(Path(root) / "clusters.npz").state
    centres = state.pop(MEAN_CENTRES)
    return recipe.build_clusterer().load_state(state), centres


def merge_photos(job: Job) -> Outcome:
    """Merge things and stuff of each photo into a panoptic PNG and its entry for the dataset's JSON files."""
    outcome = Outcome()

    def work(group: Sequence[Photo]) -> None:
        (photo,) = group
        key = job.keys[photo.id]
        try:
            record, stuff = read_masks(job.masks.path(key)), read_stuff(job.stuff.path(key))
        except DamagedFileError:
            outcome.damaged.append(key)
            return
        clusters = record.extra.get("clusters", np.zeros(0, np.int64))
        if record.vectors is not None:
            learnt = _fitted_clusterer(job.recipe, str(job.root), job.merge.fingerprint)
            clusters = cluster_ids(record.vectors, *learnt)
        ids, entry = merge_photo(job.recipe, record, clusters, stuff)
        png = job.merge.path(key, ".png")
        write_png(png, encode_ids(ids))
        write_checked(job.merge.path(key), {**entry, "png_sha256": file_sha256(png)})

    with bounded_threads(job.recipe.executor.threads), outcome.timed("merge"):
        for photo in job.photos:
            outcome.attempt([photo], work)
    return outcome


def merge_photo(
    recipe: Recipe, record: MaskRecord, clusters: np.ndarray, stuff: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """The panoptic label of one photo.

    Args:
        recipe: rules and label space.
        record: masks bool (N, H, W).
        clusters: int64 (N,).
        stuff: uint8, of any size that covers the photo.

    Returns:
        Segment ids int32 at the photo's own size, and the entry: ``height``, ``width``, ``void`` (pixels without a
        segment), ``segments`` (``segments_info``) and ``instances`` (all masks whole, as COCO annotations).
    """
    things, rules = record.masks, recipe.merge
    painted = np.flatnonzero(things.scores >= rules.min_score)
    segment_of = np.zeros(len(things), np.int64)
    label, segment_of[painted] = merge_segments(
        things.take(painted),
        clusters[painted],
        enlarge(stuff, *things.masks.shape[1:]),
        recipe.space,
        max_stuff_overlap=rules.max_stuff_overlap,
        min_area=rules.min_area,
        min_visible=rules.min_visible,
        order=rules.order,
        size=record.photo_size,
    )
    entry = {
        "height": record.photo_size[0],
        "width": record.photo_size[1],
        "void": int((label.segment_ids == 0).sum()),
        "segments": [segment.to_coco() for segment in label.segments],
        "instances": _instances(record, clusters, segment_of, recipe.space),
    }
    return label.segment_ids, entry


def _instances(
    record: MaskRecord, clusters: np.ndarray, segment_of: np.ndarray, space: LabelSpace
) -> list[dict[str, Any]]:
    """COCO annotations of all masks, whole, as they were before some were painted over others.

    ``segment_id`` is the segment of the panoptic label that shows the mask, 0 where none does.
    """
    entries = []
    for mask, score, cluster, segment in zip(
        record.masks.masks, record.masks.scores, clusters, segment_of, strict=True
    ):
        entry = instance_entry(enlarge(mask, *record.photo_size), space.thing_category(cluster), score)
        if entry is not None:
            entries.append({**entry, "segment_id": int(segment)})
    return entries
