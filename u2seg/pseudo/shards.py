"""What a worker does to a shard of photos in each stage. Every function here can travel to another process.

Shapes: ``H, W`` pixels at which a photo is labelled (its own size, or smaller: ``U2SEG.INPUT.MAX_PIXELS``); ``D, h, w``
features; ``N`` masks.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from u2seg.errors import DataError, PluginError, UsageError
from u2seg.images import Photo, batches, enlarge, read_image, shrink
from u2seg.panoptic import encode_ids
from u2seg.pseudo import parts
from u2seg.pseudo.embeddings import mask_embeddings
from u2seg.pseudo.merge import merge_segments
from u2seg.pseudo.refine.masks import refine_masks, refine_stuff
from u2seg.pseudo.stage_files import mask_file, merge_file, read_masks, read_stuff, stuff_file, write_masks
from u2seg.pseudo.store import OutputDirectory
from u2seg.runtime import bounded_threads, worker_device
from u2seg.structures import LabelSpace, MaskSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """Photos to take through one stage."""

    settings: parts.Settings
    output: OutputDirectory
    photos: tuple[Photo, ...]
    clusters: tuple[np.ndarray, ...] = ()
    """In the merge stage: cluster ids int64 (N,) of each photo's masks."""

    @property
    def device(self) -> str:
        return worker_device(self.settings["DEVICE"])

    @property
    def threads(self) -> int:
        return self.settings["EXECUTOR"]["THREADS"]


@dataclass
class Outcome:
    """What became of a shard."""

    failures: dict[int, str] = field(default_factory=dict)
    """Photo id to the reason why it has no label."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of work by part."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's wall seconds to ``part``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started

    @contextmanager
    def guarded(self, photos: Sequence[Photo]) -> Iterator[None]:
        """Note what goes wrong in the block as the failure of ``photos`` and go on with the next.

        What the user has to mend before anything works (settings, plugins, the output) is not caught.
        """
        try:
            yield
        except (UsageError, PluginError, OSError):
            raise
        except Exception as error:  # a photo that breaks some part must not cost the others their labels
            logger.debug("%s", [photo.name for photo in photos], exc_info=True)
            reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            self.failures.update({photo.id: reason for photo in photos})


def unfinished(shard: Shard, files: Callable[[Photo], Sequence[Any]]) -> Iterator[Sequence[Photo]]:
    """Batches of ``shard`` of which a file is missing; a batch is done again as a whole, to give the same numbers."""
    for batch in batches(shard.photos, shard.settings["EXECUTOR"]["BATCH_SIZE"]):
        if not all(file.exists() for photo in batch for file in files(photo)):
            yield batch


def read_batch(
    batch: Sequence[Photo], outcome: Outcome, max_pixels: int
) -> tuple[list[Photo], list[np.ndarray], list[tuple[int, int]]]:
    """Those of ``batch`` that can be read, their pixels to work on, and the sizes of the photos themselves."""
    photos, images, sizes = [], [], []
    for photo in batch:
        with outcome.timed("read"), outcome.guarded([photo]):
            image = read_image(photo.path)
            images.append(shrink(image, max_pixels))
            sizes.append(image.shape[:2])
            photos.append(photo)
    return photos, images, sizes


def run_masks(shard: Shard) -> Outcome:
    """Find, refine and embed the masks of each photo; write ``stages/masks/*.npz``."""
    settings, outcome = shard.settings, Outcome()
    with bounded_threads(shard.threads):
        extractor = parts.build_extractor(settings, shard.device)
        generator = parts.build_mask_generator(settings, shard.device)
        refiner = parts.build_refiner(settings)
        for batch in unfinished(shard, lambda photo: [mask_file(shard.output, photo)]):
            photos, images, sizes = read_batch(batch, outcome, settings["INPUT"]["MAX_PIXELS"])
            with outcome.guarded(photos):
                with outcome.timed("features"):
                    features = extractor.extract(images) if photos else []
                with outcome.timed("masks"):
                    found = _generate(generator, images, features)
                for photo, image, feature, masks, size in zip(photos, images, features, found, sizes, strict=True):
                    with outcome.guarded([photo]):
                        with outcome.timed("refine"):
                            masks = refine_masks(refiner, image, masks, settings["MASKS"]["MIN_REFINED_IOU"])
                        with outcome.timed("embed"):
                            vectors = _embed(settings, extractor, image, feature, masks)
                        write_masks(shard.output, photo, masks, vectors, size)
    return outcome


def _generate(generator: Any, images: list[np.ndarray], features: list[np.ndarray]) -> list[MaskSet]:
    if len(images) > 1 and hasattr(generator, "generate_batch"):
        return generator.generate_batch(images, features)
    return [generator.generate(image, feature) for image, feature in zip(images, features, strict=True)]


def _embed(
    settings: parts.Settings, extractor: Any, image: np.ndarray, features: np.ndarray, masks: MaskSet
) -> np.ndarray:
    node = settings["CLUSTERS"]
    return mask_embeddings(node["EMBEDDING"], extractor, image, features, masks.masks, node["CROP_SIZE"])


def run_features(shard: Shard) -> list[np.ndarray]:
    """Features float32 (D, h, w) of those photos that can be read, to fit the stuff segmenter on."""
    with bounded_threads(shard.threads):
        extractor = parts.build_extractor(shard.settings, shard.device, stuff=True)
        outcome, found = Outcome(), list[np.ndarray]()
        for batch in batches(shard.photos, shard.settings["EXECUTOR"]["BATCH_SIZE"]):
            photos, images, _ = read_batch(batch, outcome, shard.settings["INPUT"]["MAX_PIXELS"])
            with outcome.guarded(photos):
                found += extractor.extract(images) if photos else []
        return found


def run_stuff(shard: Shard) -> Outcome:
    """Label the stuff of each photo; write ``stages/stuff/*.png``, uint8, 255 for none."""
    settings, outcome = shard.settings, Outcome()
    with bounded_threads(shard.threads):
        extractor = parts.build_extractor(settings, shard.device, stuff=True)
        state = shard.output.root / "stuff.npz"
        segmenter = _fitted_segmenter(json.dumps(settings), shard.device, str(state), state.stat().st_mtime_ns)
        refiner = parts.build_refiner(settings, stuff=True)
        for batch in unfinished(shard, lambda photo: [stuff_file(shard.output, photo)]):
            photos, images, _ = read_batch(batch, outcome, settings["INPUT"]["MAX_PIXELS"])
            with outcome.guarded(photos):
                with outcome.timed("features"):
                    features = extractor.extract(images) if photos else []
                for photo, image, feature in zip(photos, images, features, strict=True):
                    with outcome.guarded([photo]):
                        with outcome.timed("segment"):
                            found = segmenter.segment(image, feature)
                        with outcome.timed("refine"):
                            labels = refine_stuff(refiner, image, found)
                        shard.output.write_png(stuff_file(shard.output, photo), labels)
    return outcome


@lru_cache(maxsize=1)
def _fitted_segmenter(settings: str, device: str, state: str, written: int) -> Any:
    """The segmenter with what was fitted; ``written`` tells one fit from the next in the same file."""
    segmenter = parts.build_stuff_segmenter(json.loads(settings), device)
    with np.load(state) as file:
        return segmenter.load_state(dict(file))


def run_merge(shard: Shard) -> Outcome:
    """Merge things and stuff of each photo; write ``panoptic/*.png`` and ``stages/merge/*.json``."""
    settings, output, outcome = shard.settings, shard.output, Outcome()
    space = LabelSpace(settings["NUM_THINGS"], settings["NUM_STUFF"])
    for photo, clusters in zip(shard.photos, shard.clusters, strict=True):
        if merge_file(output, photo).exists() and output.panoptic_file(photo.label).exists():
            continue
        with outcome.timed("merge"), outcome.guarded([photo]):
            _merge(settings["MERGE"], output, photo, clusters, space)
    return outcome


def _merge(
    node: parts.Settings, output: OutputDirectory, photo: Photo, clusters: np.ndarray, space: LabelSpace
) -> None:
    things, size = read_masks(output, photo)
    chosen = _best(things.scores, node["MIN_SCORE"])
    segment_of = np.zeros(len(things), np.int64)
    label, segment_of[chosen] = merge_segments(
        things.take(chosen),
        clusters[chosen],
        read_stuff(output, photo, things.masks.shape[1:]),
        space,
        max_stuff_overlap=node["MAX_STUFF_OVERLAP"],
        min_area=node["MIN_AREA"],
        min_visible=node["MIN_VISIBLE"],
        order=node["ORDER"],
        size=size,
    )
    output.write_png(output.panoptic_file(photo.label), encode_ids(label.segment_ids))
    entries = {
        "height": size[0],
        "width": size[1],
        "void": int((label.segment_ids == 0).sum()),
        "segments": [segment.to_coco() for segment in label.segments],
        "instances": _instances(things, clusters, segment_of, size, space),
    }
    output.write_json(merge_file(output, photo), entries)


def _best(scores: np.ndarray, smallest: float) -> np.ndarray:
    """Indices int64 of the scores from ``smallest`` on."""
    return np.flatnonzero(scores >= smallest)


def _instances(
    things: MaskSet, clusters: np.ndarray, segment_of: np.ndarray, size: tuple[int, int], space: LabelSpace
) -> list[dict[str, Any]]:
    """COCO annotations of all masks, whole, as they were before some were painted over others.

    ``segment_id`` is the segment of the panoptic label that shows the mask, 0 where none does.
    """
    from pycocotools import mask as coco

    entries = []
    for mask, score, cluster, segment in zip(things.masks, things.scores, clusters, segment_of, strict=True):
        rle = coco.encode(np.asfortranarray(enlarge(mask, *size).astype(np.uint8)))
        area = int(coco.area(rle))
        if area == 0:
            continue
        entries.append(
            {
                "category_id": space.thing_category(cluster),
                "segmentation": {"size": list(size), "counts": rle["counts"].decode("ascii")},
                "area": area,
                "bbox": [round(float(value), 1) for value in coco.toBbox(rle)],
                "iscrowd": 0,
                "score": round(float(score), 6),
                "segment_id": int(segment),
            }
        )
    return entries
