"""Average precision and recall of masks and boxes, by hotcoco where installed, else pycocotools: the same figures.

Shapes: ``T`` IoU thresholds 0.50:0.05:0.95; ``R`` recall thresholds; ``A`` areas (all, small, medium, large);
``Q`` limits of detections an image (1, 10, 100). All figures are percent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from u2seg.errors import DataError, lookup

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


@dataclass(frozen=True)
class DetectionSet:
    """Human and predicted objects in COCO's terms."""

    images: Sequence[Mapping[str, Any]]
    """``id``, ``width``, ``height``."""
    truth: Sequence[Mapping[str, Any]]
    """``image_id``, ``category_id``, ``segmentation`` (run-length code), ``area``, ``bbox``, ``iscrowd``."""
    found: Sequence[Mapping[str, Any]]
    """``image_id``, ``category_id``, ``segmentation``, ``bbox``, ``score``."""


def default_backend() -> str:
    """The fastest library that is installed."""
    return BACKENDS[0] if importlib.util.find_spec("hotcoco") else BACKENDS[1]


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
        `FIGURES`, or `BRIEF` of them, in percent: ``AP``, ``AP50``, ``AP75``, ``AP_small`` ..., ``AR@1``, ``AR@10``,
        ``AR@100``, ``AR@100_small`` ... and ``recall50`` (at IoU 0.5, 100 detections); nan where there is no object of
        that size.
    """
    names = BRIEF if brief else tuple(FIGURES)
    if not objects.found:
        return dict.fromkeys(names, 0.0 if objects.truth else np.nan)
    curves = _evaluate(objects, kind, backend or default_backend(), brief)
    return {name: _mean(curves[FIGURES[name][0]][FIGURES[name][1]]) for name in names}


def _evaluate(objects: DetectionSet, kind: str, backend: str, brief: bool) -> dict[str, np.ndarray]:
    """``precision`` (T, R, categories, A, Q) and ``recall`` (T, categories, A, Q); -1 where undefined.

    ``brief`` leaves one area, all, and one limit, 100.
    """
    coco_class, evaluator_class = _library(backend)
    categories = sorted({entry["category_id"] for part in (objects.truth, objects.found) for entry in part})
    truth = {
        "info": {},
        "images": [dict(image) for image in objects.images],
        "categories": [{"id": index, "name": str(index)} for index in categories],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(objects.truth, start=1)],
    }
    shape = "bbox" if kind == "bbox" else "segmentation"
    found = [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "score": entry["score"],
            shape: entry[shape],
        }
        for entry in objects.found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        if backend == "hotcoco":
            gt = coco_class(truth)
        else:
            gt = coco_class()
            gt.dataset = truth
            gt.createIndex()
        evaluator = evaluator_class(gt, gt.loadRes(found), kind)
        if brief:
            params = evaluator.params
            params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
            params.maxDets = params.maxDets[-1:]
            evaluator.params = params
        evaluator.evaluate()
        evaluator.accumulate()
    return {name: np.asarray(evaluator.eval[name]) for name in ("precision", "recall")}


def _library(backend: str) -> tuple[Any, Any]:
    lookup("COCO library", backend, dict.fromkeys(BACKENDS))
    if backend == "hotcoco":
        import hotcoco

        return hotcoco.COCO, hotcoco.COCOeval
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return 100 * float(np.mean(defined)) if defined.size else np.nan


def check_size(code: Mapping[str, Any], height: int, width: int, what: str) -> None:
    """Raise DataError unless run-length ``code`` is of ``height`` x ``width`` pixels."""
    size = code.get("size") if isinstance(code, Mapping) else None
    if size is None or "counts" not in code:
        raise DataError(f"{what} has no run-length code for its mask")
    if list(size) != [height, width]:
        raise DataError(f"{what} is {size[1]} x {size[0]} pixels, its photo {width} x {height}")
