"""Average precision and recall of masks and boxes, by hotcoco where installed, else pycocotools: the same figures.

Shapes: ``G`` true segments; ``N`` detections; ``T`` IoU thresholds 0.50:0.05:0.95; ``R`` recall thresholds; ``A`` areas
(all, small, medium, large); ``Q`` limits of detections an image (1, 10, 100). All figures are percent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import lookup
from u2seg.evaluation.tables import VOID, SetTable

BACKENDS = ("hotcoco", "pycocotools")
AREAS = ("", "_small", "_medium", "_large")
"""COCO's: all, up to 32 x 32, up to 96 x 96, above; pixels."""

FIGURES: dict[str, tuple[str, Any]] = {
    "AP": ("precision", np.s_[..., 0, -1]),
    "AP50": ("precision", np.s_[0, ..., 0, -1]),
    "AP75": ("precision", np.s_[5, ..., 0, -1]),
    **{f"AP{name}": ("precision", np.s_[..., area, -1]) for area, name in enumerate(AREAS) if name},
    "AR@1": ("recall", np.s_[..., 0, 0]),
    "AR@10": ("recall", np.s_[..., 0, 1]),
    "AR@100": ("recall", np.s_[..., 0, -1]),
    **{f"AR@100{name}": ("recall", np.s_[..., area, -1]) for area, name in enumerate(AREAS) if name},
    "recall50": ("recall", np.s_[0, ..., 0, -1]),
}
"""COCO's twelve and recall at IoU 0.5: which curves are averaged, and which part of them."""

BRIEF = ("AP", "AP50", "AP75", "AR@100", "recall50")
"""Of `FIGURES`, those over all sizes and 100 detections."""

PER_POLICY = ("AP", "AP50", "AR@100")
"""Of `BRIEF`, those that are given for each policy."""


@dataclass(frozen=True)
class DetectionSet:
    """Human and predicted objects in COCO's terms."""

    images: Sequence[Mapping[str, Any]]  # ``id``, ``width``, ``height``
    truth: Sequence[Mapping[str, Any]]
    """``image_id``, ``category_id``, ``segmentation`` (run-length code), ``area``, ``bbox``, ``iscrowd``."""
    detections: Sequence[Mapping[str, Any]]  # ``image_id``, ``category_id``, ``segmentation``, ``bbox``, ``score``

    @classmethod
    def of(cls, table: SetTable, gt_label: np.ndarray, detections: np.ndarray, label: np.ndarray) -> DetectionSet:
        """Human things of ``table`` and ``detections``, `SEGMENT` (N,).

        Classes are ``gt_label`` int64 (G,) and ``label`` int64 (N,), -1 for what is left out, as are rows without code.
        """
        sizes = [{"id": index, "height": height, "width": width} for index, (height, width) in enumerate(table.sizes)]
        return cls(sizes, _coco_entries(table.gt, gt_label), _coco_entries(detections, label))


def _coco_entries(rows: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    kept = np.flatnonzero((label != VOID) & rows["code"].astype(bool))
    rows = rows[kept]
    columns = (rows[name].tolist() for name in ("image", "code", "area", "box", "crowd", "score"))
    return [
        {
            "image_id": image,
            "category_id": category,
            "segmentation": code,
            "area": area,
            "bbox": box,
            "iscrowd": int(crowd),
            "score": score,
        }
        for category, image, code, area, box, crowd, score in zip((label[kept] + 1).tolist(), *columns, strict=True)
    ]


def class_agnostic_scores(
    table: SetTable, detections: np.ndarray, source: str, backend: str | None = None
) -> dict[str, Any]:
    """How well masks find human things, whatever their classes: no matching.

    Args:
        table: the human side.
        detections: `SEGMENT` (N,).
        source: where the masks come from, for the record.
        backend: as of `detection_scores`.

    Returns:
        ``mask`` and ``box`` (`FIGURES`), ``masks_per_image``, ``things_per_image`` (crowds left out), ``source``.
    """
    labels = np.zeros(len(table.gt), np.int64), np.zeros(len(detections), np.int64)
    objects = DetectionSet.of(table, labels[0], detections, labels[1])
    return {
        "mask": detection_scores(objects, "segm", backend),
        "box": detection_scores(objects, "bbox", backend),
        "masks_per_image": len(objects.detections) / max(table.num_images, 1),
        "things_per_image": sum(not entry["iscrowd"] for entry in objects.truth) / max(table.num_images, 1),
        "source": source,
    }


def matched_scores(objects: DetectionSet, backend: str | None = None) -> dict[str, float]:
    """``AP_mask``, ``AP50_mask``, ... ``AR@100_box`` in percent, averaged over classes that have an object.

    A detection of a class that no image has can't be a hit and is in no average, as with COCO's own scores.
    """
    scores = {}
    for suffix, kind in (("mask", "segm"), ("box", "bbox")):
        brief = detection_scores(objects, kind, backend, brief=True)
        scores.update({f"{name}_{suffix}": brief[name] for name in PER_POLICY})
    return scores


def detection_scores(
    objects: DetectionSet, kind: str = "segm", backend: str | None = None, *, brief: bool = False
) -> dict[str, float]:
    """COCO's figures, averaged over the categories that ``objects`` names.

    Args:
        objects: all with one category for class-agnostic figures.
        kind: ``segm`` (masks) or ``bbox``.
        backend: one of `BACKENDS`; the fastest installed if None.
        brief: leave out the figures of some sizes and of fewer than 100 detections, which cost most of the time where
            there are many categories.

    Returns:
        `FIGURES`, or `BRIEF` of them, in percent; nan where there is no object of that size.
    """
    names = BRIEF if brief else tuple(FIGURES)
    if not objects.detections:
        return dict.fromkeys(names, 0.0 if objects.truth else np.nan)
    curves = _evaluate(objects, kind, backend or default_backend(), brief)
    return {name: _mean(curves[FIGURES[name][0]][FIGURES[name][1]]) for name in names}


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return 100 * float(np.mean(defined)) if defined.size else np.nan


def _evaluate(objects: DetectionSet, kind: str, backend: str, brief: bool) -> dict[str, np.ndarray]:
    """``precision`` (T, R, categories, A, Q) and ``recall`` (T, categories, A, Q); -1 where undefined.

    ``brief`` leaves one area, all, and one limit, 100.
    """
    coco_class, evaluator_class = _library(backend)
    categories = sorted({entry["category_id"] for part in (objects.truth, objects.detections) for entry in part})
    truth = {
        "info": {},
        "images": [dict(image) for image in objects.images],
        "categories": [{"id": index, "name": str(index)} for index in categories],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(objects.truth, start=1)],
    }
    keys = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
    detections = [{key: entry[key] for key in keys} for entry in objects.detections]
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco_class(truth) if backend == "hotcoco" else coco_class()
        if backend != "hotcoco":
            gt.dataset = truth
            gt.createIndex()
        evaluator = evaluator_class(gt, gt.loadRes(detections), kind)
        if brief:
            params = evaluator.params
            params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
            params.maxDets = params.maxDets[-1:]
            evaluator.params = params
        evaluator.evaluate()
        evaluator.accumulate()
    return {name: np.asarray(evaluator.eval[name]) for name in ("precision", "recall")}


def default_backend() -> str:
    """The fastest library that is installed."""
    return BACKENDS[0] if importlib.util.find_spec("hotcoco") else BACKENDS[1]


def _library(backend: str) -> tuple[Any, Any]:
    lookup("COCO library", backend, dict.fromkeys(BACKENDS))
    if backend == "hotcoco":
        import hotcoco

        return hotcoco.COCO, hotcoco.COCOeval
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval
