"""Things from ``instances.json``: whole masks, which may overlap, in place of what a panoptic label shows of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import Transform
from fvcore.common.config import CfgNode

from u2seg.data.targets import LabelledImage
from u2seg.errors import UsageError
from u2seg.panoptic import decode_mask, read_instances, read_panoptic

logger = logging.getLogger(__name__)

Annotation = dict[str, Any]


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
    metadata = MetadataCatalog.get(name)
    root = Path(metadata.panoptic_json).parent
    instances = read_instances(read_panoptic(root))
    if instances is None:
        raise UsageError(
            f"INPUT.THINGS is 'instances', but {root} has no instances.json; labels of tools/generate_pseudo.py have "
            "one; take things from the panoptic label with INPUT.THINGS panoptic"
        )
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


def take_whole_masks(labelled: LabelledImage, annotations: Sequence[Annotation], transform: Transform) -> LabelledImage:
    """``labelled`` with whole masks in place of those that its panoptic label shows.

    Args:
        labelled: the augmented photo.
        annotations: as ``thing_masks`` of `training_entries`, of the photo as it was.
        transform: what was done to it.

    Raises:
        DataError: a mask is no run-length code.
    """
    # what a crop is padded with is not 1
    masks = [transform.apply_segmentation(decode_mask(a["segmentation"]).astype(np.uint8)) == 1 for a in annotations]
    stacked = np.array(masks, bool).reshape(-1, *labelled.sem_seg.shape)
    classes = np.array([annotation["class"] for annotation in annotations], np.int64)
    visible = stacked.any(axis=(1, 2))
    return replace(labelled, masks=stacked[visible], classes=classes[visible])
