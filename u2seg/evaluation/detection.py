"""Average precision and recall of masks and boxes, by hotcoco where installed, else pycocotools: the same figures.

Shapes: ``G`` true segments; ``N`` detections; ``T`` IoU thresholds 0.50:0.05:0.95; ``R`` recall thresholds; ``A`` areas
(all, small, medium, large); ``Q`` limits of detections an image (1, 10, 100). All figures are percent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from u2seg.errors import lookup
from u2seg.evaluation.curves import LIMITS, Outcomes, join_outcomes, precision_recall, read_outcomes
from u2seg.evaluation.tables import VOID, Table

BACKENDS = {"hotcoco": ("hotcoco", "hotcoco"), "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval")}
"""COCO libraries, the fastest first: the modules of their ``COCO`` and ``COCOeval``."""
KINDS = {"mask": "segm", "box": "bbox"}
"""Our names of what overlaps, and COCO's."""
AREAS = ("", "_small", "_medium", "_large")
"""COCO's: all, up to 32 x 32, up to 96 x 96, above; pixels."""

AREA_LIMITS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
"""Smallest and largest number of pixels of `AREAS`."""
MOST_AT_ONCE = 10_000
"""Images of which the COCO library is given all objects at once."""
IMAGES_AT_ONCE = 1000
"""Of larger sets, which are matched part by part, to the same figures."""

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

BRIEF = ("AP", "AP50", "AR@100")
"""Of `FIGURES`, those that are given for each policy: over all sizes and 100 detections."""

Part = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Gives detections `SEGMENT` (n,) of the images from one index up to another, and their classes int64 (n,)."""


def scores_by_kind(
    table: Table,
    gt_label: np.ndarray,
    detections: np.ndarray,
    label: np.ndarray,
    backend: str | None = None,
    *,
    brief: bool = False,
) -> dict[str, dict[str, float]]:
    """`detection_scores` of masks and of boxes: human segments of ``table``, detections `SEGMENT` (N,).

    Classes are ``gt_label`` int64 (G,) and ``label`` int64 (N,), `VOID` for what is left out, as are rows without a
    mask. A detection of a class that no image has can't be a hit and is in no average, as with COCO's own scores.
    """

    def part(start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(*np.searchsorted(detections["image"], (start, end)))
        return detections[rows], label[rows]

    return _scores_by_kind(table, gt_label, part, backend, brief)


def _scores_by_kind(
    table: Table, gt_label: np.ndarray, part: Part, backend: str | None, brief: bool
) -> dict[str, dict[str, float]]:
    if table.num_images > MOST_AT_ONCE:
        return _scores_by_parts(table, gt_label, part, backend, brief)
    objects = _coco_objects(table, gt_label, part, 0, table.num_images)
    return {name: detection_scores(*objects, kind, backend, brief=brief) for name, kind in KINDS.items()}


def _coco_objects(
    table: Table, gt_label: np.ndarray, part: Part, start: int, end: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Images from ``start`` up to ``end``, and their truth and detections, as `detection_scores` takes them."""
    images = [{"id": index, "height": h, "width": w} for index, (h, w) in enumerate(table.sizes[start:end], start)]
    truth = slice(*np.searchsorted(table.gt["image"], (start, end)))
    true = _coco_entries(table.gt[truth], gt_label[truth], table.sizes)
    return images, true, _coco_entries(*part(start, end), table.sizes)


def _scores_by_parts(
    table: Table, gt_label: np.ndarray, part: Part, backend: str | None, brief: bool
) -> dict[str, dict[str, float]]:
    """`_scores_by_kind` with the objects of `IMAGES_AT_ONCE` images in memory; of the others, flags are kept."""
    names, areas = BRIEF if brief else tuple(FIGURES), AREA_LIMITS[:1] if brief else AREA_LIMITS
    truth: dict[int, Sequence[int]] = {}
    parts: dict[str, list[dict[int, Outcomes]]] = {kind: [] for kind in KINDS.values()}
    labelled = (gt_label != VOID) & table.gt["code"].astype(bool)
    for category in (np.unique(gt_label[labelled]) + 1).tolist():
        sizes = table.gt["area"][labelled & (gt_label + 1 == category) & ~table.gt["crowd"]]
        truth[category] = [int(((low <= sizes) & (sizes <= high)).sum()) for low, high in areas]
    for start in range(0, table.num_images, IMAGES_AT_ONCE):
        objects = _coco_objects(table, gt_label, part, start, start + IMAGES_AT_ONCE)
        for kind, outcomes in parts.items() if objects[2] and truth else ():
            evaluator = _evaluated(*objects, kind, backend, brief, list(truth))
            outcomes.append(read_outcomes(evaluator.evalImgs, evaluator.params.areaRng))
    scores = {}
    for name, kind in KINDS.items():
        if not truth or not parts[kind]:
            scores[name] = dict.fromkeys(names, 0.0 if truth else np.nan)
            continue
        limits = LIMITS[-1:] if brief else LIMITS
        curves = precision_recall(join_outcomes(parts[kind]), truth, limits, thresholds=10)
        scores[name] = {figure: _mean_percent(curves[FIGURES[figure][0]][FIGURES[figure][1]]) for figure in names}
    return scores


def class_agnostic_scores(
    table: Table, detections: Callable[[int, int], np.ndarray], source: str, backend: str | None = None
) -> dict[str, Any]:
    """How well detections find human things, whatever their classes: no matching.

    Args:
        table: the human segments.
        detections: gives those of the images from one index up to another, `SEGMENT` (n,), called once for each part
            of the set, so that they need not be in memory at once.
        source: where they are from, for the record.
        backend: one of `BACKENDS`; the fastest installed if None.

    Returns:
        ``mask`` and ``box`` (`FIGURES`), ``masks_per_image``, ``things_per_image`` (crowds left out), and ``source``.
    """
    masks = 0

    def part(start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        nonlocal masks
        rows = detections(start, end)
        masks += np.count_nonzero(rows["code"])
        return rows, np.zeros(len(rows), np.int64)

    return {
        **_scores_by_kind(table, np.zeros(len(table.gt), np.int64), part, backend, brief=False),
        "masks_per_image": masks / table.num_images,
        "things_per_image": int((table.gt["isthing"] & ~table.gt["crowd"]).sum()) / table.num_images,
        "source": source,
    }


def _coco_entries(rows: np.ndarray, label: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    kept = np.flatnonzero((label != VOID) & rows["code"].astype(bool))
    rows = rows[kept]
    names = ("image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score")
    columns = (
        rows["image"],
        label[kept] + 1,
        rows["code"],
        rows["area"],
        rows["box"],
        rows["crowd"].astype(int),
        rows["score"],
    )
    entries = zip(*(column.tolist() for column in columns), strict=True)
    objects = [dict(zip(names, entry, strict=True)) for entry in entries]
    for each in objects:
        each["segmentation"] = {"size": list(sizes[each["image_id"]]), "counts": each["segmentation"]}
    return objects


def detection_scores(
    images: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    kind: str = "segm",
    backend: str | None = None,
    *,
    brief: bool = False,
) -> dict[str, float]:
    """COCO's figures, averaged over the categories of ``truth``.

    Args:
        images: ``id``, ``width``, ``height``.
        truth: ``image_id``, ``category_id``, ``segmentation`` (run-length code), ``area``, ``bbox``, ``iscrowd``.
        detections: ``image_id``, ``category_id``, ``segmentation``, ``bbox``, ``score``.
        kind: ``segm`` (masks) or ``bbox``.
        backend: one of `BACKENDS`; the fastest installed if None.
        brief: leave out the figures of some sizes and of fewer than 100 detections, which cost most of the time where
            there are many categories.

    Returns:
        `FIGURES`, or `BRIEF` of them, in percent; nan where there is no object of that size.
    """
    names = BRIEF if brief else tuple(FIGURES)
    if not truth or not detections:
        return dict.fromkeys(names, 0.0 if truth else np.nan)
    evaluator = _evaluated(images, truth, detections, kind, backend, brief, sorted({e["category_id"] for e in truth}))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    # ``precision`` (T, R, categories, A, Q) and ``recall`` (T, categories, A, Q)
    curves = {name: np.asarray(evaluator.eval[name]) for name in ("precision", "recall")}
    return {name: _mean_percent(curves[FIGURES[name][0]][FIGURES[name][1]]) for name in names}


def _evaluated(
    images: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    kind: str,
    backend: str | None,
    brief: bool,
    categories: Sequence[int],
) -> Any:
    """The library's ``COCOeval`` after it has matched; arguments as of `detection_scores`."""
    coco_class, evaluator_class = _library(backend or default_backend())
    content = {
        "info": {},
        "images": [dict(image) for image in images],
        "categories": [{"id": index, "name": str(index)} for index in categories],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(truth, start=1)],
    }
    keys = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco_class()
        gt.dataset = content
        gt.createIndex()
        evaluator = evaluator_class(gt, gt.loadRes([{key: entry[key] for key in keys} for entry in detections]), kind)
        if brief:
            params = evaluator.params
            params.areaRng, params.areaRngLbl, params.maxDets = params.areaRng[:1], params.areaRngLbl[:1], [100]
            evaluator.params = params
        evaluator.evaluate()
    return evaluator


def _mean_percent(values: np.ndarray) -> float:
    defined = values[values > -1]  # COCO marks by -1 what is not
    return 100 * float(np.mean(defined)) if defined.size else np.nan


def default_backend() -> str:
    """The fastest library that is installed."""
    return next(name for name in BACKENDS if importlib.util.find_spec(name))


def _library(backend: str) -> tuple[Any, Any]:
    """The classes ``COCO`` and ``COCOeval`` of a COCO library."""
    coco, evaluator = lookup("COCO library", backend, BACKENDS)
    return importlib.import_module(coco).COCO, importlib.import_module(evaluator).COCOeval
