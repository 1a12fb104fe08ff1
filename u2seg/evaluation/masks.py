"""Class-agnostic objects: every mask of ``instances.json`` against every human thing, whatever their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2seg.errors import DataError
from u2seg.evaluation.dataset import LabelledImage, read_json
from u2seg.evaluation.detection import DetectionSet, check_size, detection_scores
from u2seg.evaluation.overlap import ImageOverlap
from u2seg.evaluation.runs import encode_segments
from u2seg.panoptic import read_ids

OBJECT = 1
"""The one category of class-agnostic figures."""


@dataclass(frozen=True)
class MaskScores:
    """How good the masks are, without any matching."""

    mask: dict[str, float]
    """percent, of `detection_scores` with masks"""
    box: dict[str, float]
    """percent, of `detection_scores` with boxes"""
    masks_per_image: float
    things_per_image: float
    """Human things, crowds left out."""
    source: str
    """Where the masks come from."""


def score_masks(
    pairs: Sequence[tuple[LabelledImage, LabelledImage]],
    images: Sequence[ImageOverlap],
    instances_file: Path,
    things: frozenset[int],
    backend: str | None = None,
) -> MaskScores:
    """Score the masks of a set.

    Args:
        pairs: ground truth and pseudo label of each photo.
        images: their overlaps, read with run-length codes.
        instances_file: full masks and scores; where it is missing, the thing segments of the panoptic PNGs are taken.
        things: category ids of the pseudo things.
        backend: see `detection_scores`.

    Raises:
        DataError: ``instances_file`` does not fit the photos.
    """
    truth = [entry for index, image in enumerate(images) for entry in _true_objects(index, image)]
    if instances_file.is_file():
        found, source = _read_instances(instances_file, pairs), instances_file.name
    else:
        found = [entry for index, (_, pseudo) in enumerate(pairs) for entry in _painted(index, pseudo, things)]
        source = f"panoptic PNGs, for want of {instances_file.name}"
    sizes = [{"id": index, "width": gt.width, "height": gt.height} for index, (gt, _) in enumerate(pairs)]
    return score_objects(DetectionSet(sizes, truth, found), source, backend)


def score_objects(objects: DetectionSet, source: str, backend: str | None = None) -> MaskScores:
    """Score objects that are all of one category; ``source`` says where they come from."""
    count = max(len(objects.images), 1)
    return MaskScores(
        mask=detection_scores(objects, "segm", backend),
        box=detection_scores(objects, "bbox", backend),
        masks_per_image=len(objects.found) / count,
        things_per_image=sum(not entry["iscrowd"] for entry in objects.truth) / count,
        source=source,
    )


def _true_objects(index: int, image: ImageOverlap) -> list[dict[str, Any]]:
    return [
        {
            "image_id": index,
            "category_id": OBJECT,
            "segmentation": code,
            "area": int(image.gt.area[segment]),
            "bbox": image.gt.box[segment].tolist(),
            "iscrowd": int(image.gt.crowd[segment]),
        }
        for segment, code in enumerate(image.gt_runs)
        if code is not None
    ]


def _read_instances(path: Path, pairs: Sequence[tuple[LabelledImage, LabelledImage]]) -> list[dict[str, Any]]:
    content = read_json(path)
    index_of = {pseudo.image_id: index for index, (_, pseudo) in enumerate(pairs)}
    found = []
    try:
        for entry in content["annotations"]:
            index = index_of.get(entry["image_id"])
            if index is None:
                continue
            gt = pairs[index][0]
            check_size(entry["segmentation"], gt.height, gt.width, f"{path}: mask {entry.get('id')} of {gt.stem!r}")
            found.append(_found(index, entry["segmentation"], entry["bbox"], entry.get("score", 1.0)))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO instances JSON: {type(error).__name__} {error}") from error
    return found


def _painted(index: int, pseudo: LabelledImage, things: frozenset[int]) -> list[dict[str, Any]]:
    own = [segment for segment in pseudo.segments if segment["category_id"] in things]
    codes = encode_segments(read_ids(pseudo.png), [segment["id"] for segment in own])
    return [
        _found(index, code, segment.get("bbox") or _box(code), segment.get("score", 1.0))
        for code, segment in zip(codes, own, strict=True)
    ]


def _box(code: dict[str, Any]) -> list[float]:
    from pycocotools import mask as coco_mask

    return coco_mask.toBbox(code).tolist()


def _found(index: int, code: Any, box: Sequence[float], score: float) -> dict[str, Any]:
    return {
        "image_id": index,
        "category_id": OBJECT,
        "segmentation": code,
        "bbox": list(box),
        "score": float(score),
    }
