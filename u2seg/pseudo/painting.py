"""The stage ``merge`` on a worker: the panoptic label of each photo, and its entry for the dataset's JSON files.

Shapes: ``H, W`` pixels at which a photo is labelled; ``N`` masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.files import file_sha256, write_checked, write_png
from u2seg.images import Photo, enlarge
from u2seg.panoptic import encode_ids, instance_entry
from u2seg.pseudo.embeddings import cluster_ids
from u2seg.pseudo.intermediate import DamagedFileError, MaskRecord, read_masks, read_stuff
from u2seg.pseudo.learning import MEAN_CENTRES
from u2seg.pseudo.merge import merge_segments
from u2seg.pseudo.products import read_fitted
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.worker import Job, Outcome
from u2seg.runtime import worker_device
from u2seg.structures import LabelSpace


@lru_cache(maxsize=1)
def _fitted_clusterer(recipe: Recipe, root: str, fingerprint: str) -> tuple[Any, np.ndarray]:
    """The clusterer with what was learnt, and centres of mean features; ``fingerprint`` tells one set from the next."""
    state, _ = read_fitted(Path(root) / "clusters.npz")
    centres = state.pop(MEAN_CENTRES)
    return recipe.build(recipe.clusterer, worker_device(recipe.device)).load_state(state), centres


def merge_photos(job: Job) -> Outcome:
    """Merge things and stuff of each photo into a panoptic PNG and its entry for the dataset's JSON files."""

    def work(outcome: Outcome, group: Sequence[Photo]) -> None:
        key = job.keys[group[0].id]
        with outcome.timed("merge"):
            try:
                record, stuff = read_masks(job.masks, key), read_stuff(job.stuff, key)
            except DamagedFileError as error:
                outcome.damaged.append(error)
                return
            clusters = record.extra.get("clusters", np.zeros(0, np.int64))
            if record.vectors is not None:
                learnt = _fitted_clusterer(job.recipe, str(job.root), job.merge.fingerprint)
                clusters = cluster_ids(record.vectors, *learnt)
            ids, entry = merge_photo(job.recipe, record, clusters, stuff)
            png = job.merge.path(key, ".png")
            write_png(png, encode_ids(ids))
            write_checked(job.merge.path(key), {**entry, "png_sha256": file_sha256(png)})

    return job.work_through(work)


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
    best = np.argsort(-things.scores, kind="stable")[: rules.min_things]
    painted = np.union1d(np.flatnonzero(things.scores >= rules.min_score), best)
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
