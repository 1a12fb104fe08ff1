"""The stage ``label`` on a worker: masks with their vectors, and stuff, of each photo, in one pass of the network.

Shapes: ``H, W`` pixels at which a photo is labelled; ``D, h, w`` features; ``N`` masks.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  a BLAS that is loaded inside `bounded_threads` would take every core

from u2seg.files import write_arrays
from u2seg.images import Photo
from u2seg.pseudo.embeddings import embed_masks
from u2seg.pseudo.intermediate import (
    DamagedFileError,
    MaskRecord,
    read_arrays,
    write_masks,
    write_stuff,
)
from u2seg.pseudo.masks.crops import View, choose, corner_boxes, groups, whole_box, whole_things
from u2seg.pseudo.masks.edges import soft_edges
from u2seg.pseudo.products import read_fitted
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.refine.masks import refine_masks, refine_stuff
from u2seg.pseudo.worker import Job, Outcome, Pixels, read_photos
from u2seg.structures import MaskSet


def keep_features(job: Job) -> Outcome:
    """Write the features of each photo: for fitting the stuff segmenter, and so that no photo needs a second pass."""

    def work(outcome: Outcome, group: Sequence[Photo]) -> None:
        if all(job.features.has(job.keys[photo.id]) for photo in group):
            return
        readable = read_photos(group, outcome, job.recipe)
        with outcome.timed("features"):
            extracted = _extract(job, readable, {*_missing(job, group), "stuff"})
        for (photo, _), features in zip(readable, extracted, strict=True):
            write_arrays(job.features.path(job.keys[photo.id]), features)

    return job.work_through(work, job.recipe.executor.batch_size)


def _missing(job: Job, photos: Sequence[Photo]) -> set[str]:
    """Of "things" and "stuff" what one of ``photos`` lacks."""
    files = {"things": job.masks, "stuff": job.stuff}
    return {role for role in files if not all(files[role].has(job.keys[photo.id]) for photo in photos)}


def _extract(job: Job, readable: Sequence[tuple[Photo, Pixels]], roles: Set[str]) -> list[dict[str, np.ndarray]]:
    """Features float32 (D, h, w) for ``roles`` of each photo, by one pass of the network if it can be."""
    names = [role for role in ("things", "stuff") if role in roles]
    extractors = [job.part(job.recipe.extractors[role]) for role in names]
    by_role = extract_each(extractors, [pixels.image for _, pixels in readable])
    return [dict(zip(names, features, strict=True)) for features in zip(*by_role, strict=True)]


def extract_each(extractors: Sequence[Any], images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """What each of ``extractors`` gives for ``images`` uint8 (H, W, 3): a list of float32 (D, h, w) for each.

    Those that have the methods of `u2seg.plugins.contracts.SharesPass` may share one pass; else each has its own.
    """
    first, *others = extractors
    if not images or all(other is first for other in others):
        return [first.extract(images)] * len(extractors)
    shares = getattr(first, "shares_pass", lambda _: False)
    if all(shares(other) for other in others):
        return first.extract_with(images, others)
    return [extractor.extract(images) for extractor in extractors]


def label_photos(job: Job) -> Outcome:
    """Make the masks with their vectors, and the stuff map, of each photo: read once, one pass of the network."""
    return job.work_through(partial(_label, job), job.recipe.executor.batch_size)


def _label(job: Job, outcome: Outcome, photos: Sequence[Photo]) -> None:
    roles = _missing(job, photos)
    if not roles:
        return
    readable = read_photos(photos, outcome, job.recipe)
    with outcome.timed("features"):
        features = _kept_features(job, readable, roles) or _extract(job, readable, roles)
    masks: list[MaskSet] = []
    if "things" in roles:
        with outcome.timed("masks"):
            masks = _generate(job, [pixels.image for _, pixels in readable], [f["things"] for f in features])
    for index, (photo, pixels) in enumerate(readable):
        key = job.keys[photo.id]

        def finish(group: Sequence[Photo], index: int = index, pixels: Pixels = pixels, key: str = key) -> None:
            if "things" in roles:
                record = _refine_and_embed(job, outcome, pixels, features[index]["things"], masks[index])
                write_masks(job.masks.path(key), record)
            if "stuff" in roles:
                write_stuff(job.stuff.path(key), _segment(job, outcome, pixels, features[index]["stuff"]))
            job.features.path(key).unlink(missing_ok=True)

        outcome.attempt([photo], finish)


def _kept_features(
    job: Job, readable: Sequence[tuple[Photo, Pixels]], roles: Set[str]
) -> list[dict[str, np.ndarray]] | None:
    """What `keep_features` has left of all of these photos, or None where something is missing."""
    try:
        kept = [read_arrays(job.features, job.keys[photo.id]) for photo, _ in readable]
    except DamagedFileError:
        return None
    return kept if all(roles <= features.keys() for features in kept) else None


def _generate(job: Job, images: list[np.ndarray], features: list[np.ndarray]) -> list[MaskSet]:
    generator = job.part(job.recipe.masks)
    if len(images) > 1 and hasattr(generator, "generate_batch"):
        return generator.generate_batch(images, features)
    return [generator.generate(image, feature) for image, feature in zip(images, features, strict=True)]


def _refine_and_embed(job: Job, outcome: Outcome, pixels: Pixels, features: np.ndarray, coarse: MaskSet) -> MaskRecord:
    recipe, extractor = job.recipe, job.part(job.recipe.features)
    views = [View(whole_box(pixels.image), features, coarse)]
    if recipe.crops:
        views = _add_crops(job, outcome, pixels.image, views)
    with outcome.timed("refine"):
        masks = _refine_views(job, pixels.image, views)
    with outcome.timed("embed"):
        arguments = recipe.crop_size, recipe.cluster_min_score, recipe.cluster_max_overlap
        vectors = embed_masks(recipe.embedding, extractor, pixels.image, features, masks, *arguments)
    return MaskRecord(masks, vectors, pixels.size, {})


def _add_crops(job: Job, outcome: Outcome, image: np.ndarray, views: list[View]) -> list[View]:
    """``views`` and the crops of the photo, each with those of its masks on the grid that are worth keeping."""
    height, width = image.shape[:2]
    boxes = corner_boxes(height, width, job.recipe.crops)
    crops = [np.ascontiguousarray(box.of(image)) for box in boxes]
    with outcome.timed("features of crops"):
        features = job.part(job.recipe.features).extract(crops)
    with outcome.timed("masks of crops"):
        masks = _generate(job, crops, features)
        found = (whole_things(m, box, height, width) for box, m in zip(boxes, masks, strict=True))
        views = [*views, *map(View, boxes, features, found)]
        kept = choose(views, height, width)
    return [view._replace(masks=view.masks.take(index)) for view, index in zip(views, kept, strict=True)]


def _refine_views(job: Job, image: np.ndarray, views: Sequence[View]) -> MaskSet:
    """All masks at the pixels of ``image`` uint8 (H, W, 3), each refined inside its own view; of crops, no groups."""
    recipe, refiner, masks, scores = job.recipe, job.part(job.recipe.refine), [], []
    for box, features, coarse in views:
        soft = recipe.soft_edges and coarse.masks.shape[1:] == features.shape[1:]
        inside = soft_edges(coarse.masks, features) if soft else None
        view = np.ascontiguousarray(box.of(image))
        refined = refine_masks(refiner, view, coarse, recipe.min_refined_iou, recipe.keep_rough, inside)
        whole = np.zeros((len(refined), *image.shape[:2]), bool)
        whole[:, box.top : box.bottom, box.left : box.right] = refined.masks
        masks.append(whole)
        scores.append(refined.scores)
    refined = MaskSet(np.concatenate(masks), np.concatenate(scores))
    return refined.take(~groups(refined.masks)) if len(views) > 1 else refined


def _segment(job: Job, outcome: Outcome, pixels: Pixels, features: np.ndarray) -> np.ndarray:
    with outcome.timed("stuff"):
        segmenter = _fitted_segmenter(job.recipe, job.device, str(job.root), job.stuff.fingerprint)
        classes = segmenter.segment(pixels.image, features)
    with outcome.timed("refine stuff"):
        return refine_stuff(job.part(job.recipe.stuff_refine), pixels.image, classes)


@lru_cache(maxsize=1)
def _fitted_segmenter(recipe: Recipe, device: str, root: str, fingerprint: str) -> Any:
    """The segmenter with what was fitted; ``fingerprint`` tells what one fit has learnt from the next."""
    state, _ = read_fitted(Path(root) / "stuff.npz")
    return recipe.build(recipe.stuff, device).load_state(state)
