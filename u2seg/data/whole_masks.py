"""Things from ``instances.json``: whole masks, which may overlap, in place of what a panoptic label shows of them.

Shapes: ``H, W`` image pixels; ``h, w`` pixels of a pasted photo; ``N`` things of an image; ``m`` things to paste.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import Transform
from fvcore.common.config import CfgNode

from u2seg.data.augmentation import MAX_OVERLAP, shrink_into
from u2seg.data.targets import Targets
from u2seg.errors import UsageError
from u2seg.images import enlarge
from u2seg.panoptic import Instances, decode_mask, read_instances, read_panoptic

logger = logging.getLogger(__name__)

Annotation = dict[str, Any]


@dataclass(frozen=True)
class WholeMasks:
    """A photo, its things as whole masks, and its semantic label."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    targets: Targets
    """Masks may overlap, and ``sem_seg`` may say that a pixel of theirs is stuff."""


def training_entries(name: str, cfg: CfgNode) -> Iterator[dict[str, Any]]:
    """Dataset dicts of the registered dataset ``name``, with ``thing_masks`` where ``INPUT.THINGS`` is "instances".

    Those are the things that are learnt, as ``INPUT.INSTANCES`` says: ``class`` in [0, K) and ``segmentation`` of each.

    Raises:
        UsageError: the dataset has no ``instances.json``.
        DataError: it is damaged.
    """
    entries: Sequence[dict[str, Any]] = DatasetCatalog.get(name)
    if cfg.INPUT.THINGS != "instances":
        yield from entries
        return
    metadata, instances = MetadataCatalog.get(name), _instances(name)
    classes = metadata.thing_dataset_id_to_contiguous_id
    arguments = {key.lower(): value for key, value in cfg.INPUT.INSTANCES.items()}
    count = total = 0
    for entry in entries:
        annotations = instances[entry["image_id"]]
        chosen = select(annotations, **arguments)
        count, total = count + len(chosen), total + len(annotations)
        masks = [{"class": classes[e["category_id"]], "segmentation": e["segmentation"]} for e in chosen]
        yield entry | {"thing_masks": masks}
    logger.info("%s: %d of %d masks of instances.json are learnt", name, count, total)


def _instances(name: str) -> Instances:
    root = Path(MetadataCatalog.get(name).panoptic_json).parent
    instances = read_instances(read_panoptic(root))
    if instances is None:
        raise UsageError(
            f"INPUT.THINGS is 'instances', but {root} has no instances.json; labels of tools/generate_pseudo.py have "
            "one; take things from the panoptic label with INPUT.THINGS panoptic"
        )
    return instances


def select(
    entries: Iterable[Mapping[str, Any]], min_score: float = 0.0, max_masks: int = 0, max_inside: float = 1.0
) -> list[Mapping[str, Any]]:
    """Those of the annotations ``entries`` of one photo that are learnt, the surest first.

    Args:
        entries: with ``score`` and a compressed ``segmentation``; crowds are left out.
        min_score: smallest score.
        max_masks: most of them; 0 is no limit.
        max_inside: largest share of a mask that may lie inside one surer one.
    """
    from pycocotools import mask as coco

    listed = [entry for entry in entries if entry["score"] >= min_score and not entry.get("iscrowd")]
    ranked = sorted(listed, key=lambda entry: -entry["score"])
    if max_inside < 1 and len(ranked) > 1:
        codes = [entry["segmentation"] for entry in ranked]
        inside = coco.iou(codes, codes, [1] * len(codes))  # for a crowd, the share of the first mask in the second
        kept: list[int] = []
        for row in range(len(ranked)):
            if not kept or inside[row, kept].max() <= max_inside:
                kept.append(row)
        ranked = [ranked[row] for row in kept]
    return ranked[:max_masks] if max_masks else ranked


def transform_masks(
    annotations: Sequence[Annotation], transform: Transform, image: np.ndarray, sem_seg: np.ndarray
) -> WholeMasks:
    """The sample of an augmented photo.

    Args:
        annotations: as ``thing_masks`` of `training_entries`, of the photo as it was.
        transform: what was done to the photo.
        image: uint8 (H, W, 3), the photo after that.
        sem_seg: uint8 (H, W), its semantic label.

    Raises:
        DataError: a mask is no run-length code.
    """
    # what a crop is padded with is not 1
    masks = [transform.apply_segmentation(decode_mask(a["segmentation"]).astype(np.uint8)) == 1 for a in annotations]
    stacked = np.array(masks, bool).reshape(-1, *sem_seg.shape)
    classes = np.array([annotation["class"] for annotation in annotations], np.int64)
    return _without_empty(image, stacked, classes, sem_seg)


def _without_empty(image: np.ndarray, masks: np.ndarray, classes: np.ndarray, sem_seg: np.ndarray) -> WholeMasks:
    visible = masks.any(axis=(1, 2))
    return WholeMasks(image, Targets(masks[visible], classes[visible], sem_seg))


def copy_paste_whole(
    target: WholeMasks, source: WholeMasks, rng: np.random.Generator, scale: tuple[float, float] = (0.3, 1.0)
) -> WholeMasks:
    """`u2seg.data.augmentation.copy_paste` for whole masks: photo and semantic label of pasted pixels come along.

    Pasted masks stay whole, as they lay in their photo; those of the target lose what is pasted over.

    Args:
        target: what is pasted on; left as it is.
        source: whose things are pasted.
        rng: draws how many things, which, the factor, and the place down and across.
        scale: smallest and largest factor.

    Returns:
        A new sample of the target's size; pasted things stand after the target's.
    """
    count = len(source.targets.masks)
    if not count:
        return target
    subset = np.sort(rng.choice(count, rng.integers(1, count + 1), replace=False))
    frame = target.targets.sem_seg.shape
    photo, place = shrink_into(frame, source.image, rng, scale)
    size = photo.shape[:2]
    pasted = np.stack([enlarge(mask, *size) for mask in source.targets.masks[subset]])  # (m, h, w)
    kept = (_overlap(target.targets.masks, pasted, place) < MAX_OVERLAP) & pasted.any(axis=(1, 2))
    pasted = pasted[kept]
    union = np.logical_or.reduce(pasted, axis=0)

    image, sem_seg, masks = target.image.copy(), target.targets.sem_seg.copy(), target.targets.masks.copy()
    np.copyto(image[place], photo, where=union[:, :, None])
    np.copyto(sem_seg[place], enlarge(source.targets.sem_seg, *size), where=union)
    masks[:, place[0], place[1]] &= ~union
    added = np.zeros((len(pasted), *frame), bool)
    added[:, place[0], place[1]] = pasted
    classes = np.append(target.targets.classes, source.targets.classes[subset[kept]])
    return _without_empty(image, np.concatenate([masks, added]), classes, sem_seg)


def _overlap(masks: np.ndarray, pasted: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Largest IoU float64 (m,) of each of ``pasted`` bool (m, h, w), at ``place``, with one of ``masks`` (N, H, W)."""
    columns = masks[:, place[0], place[1]].reshape(len(masks), pasted[0].size).astype(np.float32)
    rows = pasted.reshape(len(pasted), -1).astype(np.float32)
    shared = rows @ columns.T  # (m, N), whole numbers
    union = rows.sum(axis=1)[:, None] + masks.sum(axis=(1, 2)) - shared
    overlap: np.ndarray = (shared / np.maximum(union, 1)).max(axis=1, initial=0)
    return overlap
