"""COCO's precision and recall from what became of each detection, so that a large set can be matched part by part.

Shapes: ``D`` detections; ``A`` areas; ``T`` IoU thresholds; ``B`` bytes of a bit for each threshold; ``R`` recall
thresholds; ``C`` categories; ``Q`` limits of detections an image, as in `u2seg.evaluation.detection`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LIMITS = (1, 10, 100)
RECALLS = np.linspace(0, 1, 101)


class Outcomes(NamedTuple):
    """What became of the detections of one category, image by image, in each image the surest first."""

    scores: np.ndarray  # float64 (D,)
    rank: np.ndarray  # uint8 (D,), place in its image
    hit: np.ndarray  # uint8 (A, B, D), bits: whether it was matched
    ignored: np.ndarray  # uint8 (A, B, D), bits: whether it lies in a crowd or is of another size


def read_outcomes(results: Iterable[Mapping[str, Any] | None], areas: Sequence[Sequence[float]]) -> dict[int, Outcomes]:
    """`Outcomes` by category id, of ``evalImgs`` of a COCO library.

    ``areas`` are its ``areaRng``.
    """
    parts: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    place = {tuple(area): index for index, area in enumerate(areas)}
    for result in results:
        if result is not None and len(result["dtScores"]):
            parts[result["category_id"], place[tuple(result["aRng"])]].append(result)
    outcomes = {}
    for category in {category for category, _ in parts}:
        first = parts[category, 0]
        flags = [
            np.packbits([np.concatenate([r[name] for r in parts[category, a]], axis=1) != 0 for a in place.values()], 1)
            for name in ("dtMatches", "dtIgnore")
        ]
        ranks = np.concatenate([np.arange(len(result["dtScores"]), dtype=np.uint8) for result in first])
        outcomes[category] = Outcomes(np.concatenate([r["dtScores"] for r in first]), ranks, *flags)
    return outcomes


def join_outcomes(parts: Sequence[Mapping[int, Outcomes]]) -> dict[int, Outcomes]:
    """The outcomes of a whole set from those of its parts, in the order of its images."""
    joined = {}
    for category in {category for part in parts for category in part}:
        of_category = [part[category] for part in parts if category in part]
        joined[category] = Outcomes(*(np.concatenate(column, axis=-1) for column in zip(*of_category, strict=True)))
    return joined


def precision_recall(
    outcomes: Mapping[int, Outcomes], truth: Mapping[int, Sequence[int]], limits: Sequence[int], thresholds: int
) -> dict[str, np.ndarray]:
    """COCO's ``precision`` float64 (T, R, C, A, Q) and ``recall`` float64 (T, C, A, Q), -1 where there is no object.

    ``truth`` says by category, in rising order, how many objects of each area are to be found; ``limits`` are the most
    detections of an image and category that count; ``thresholds`` is T.
    """
    shape = len(truth), len(next(iter(truth.values()), ())), len(limits)
    precision, recall = -np.ones((thresholds, len(RECALLS), *shape)), -np.ones((thresholds, *shape))
    for c, (category, counts) in enumerate(truth.items()):
        for a, count in enumerate(counts):
            for q, limit in enumerate(limits if count else ()):
                precision[:, :, c, a, q] = recall[:, c, a, q] = 0
                if category in outcomes:
                    curves = _curves(outcomes[category], a, limit, count, thresholds)
                    precision[:, :, c, a, q], recall[:, c, a, q] = curves
    return {"precision": precision, "recall": recall}


def _curves(outcomes: Outcomes, area: int, limit: int, count: int, thresholds: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision float64 (T, R) at each recall, and the recall float64 (T,) of all detections."""
    chosen = np.flatnonzero(outcomes.rank < limit)
    order = chosen[np.argsort(-outcomes.scores[chosen], kind="mergesort")]
    precision, recall = np.zeros((thresholds, len(RECALLS))), np.zeros(thresholds)
    flags = [np.unpackbits(bits[area], 0, thresholds).view(bool) for bits in (outcomes.hit, outcomes.ignored)]  # (T, D)
    for t, (hit, ignored) in enumerate(zip(*flags, strict=True)):
        right = np.cumsum(hit[order] & ~ignored[order]).astype(np.float64)
        wrong = np.cumsum(~hit[order] & ~ignored[order]).astype(np.float64)
        share = right / (wrong + right + np.spacing(1))
        best = np.maximum.accumulate(share[::-1])[::-1]  # at this recall or any beyond
        at = np.searchsorted(right / count, RECALLS, side="left")
        precision[t, at < len(best)] = best[at[at < len(best)]]
        recall[t] = right[-1] / count if len(right) else 0
    return precision, recall
