"""How well stuff maps fit human classes.

Shapes: ``n`` photos; ``H, W`` pixels; ``K`` clusters; ``C`` human classes.

The human classes are the supercategories of a COCO panoptic dataset: 12 of things and 15 of stuff, the 27 of
COCO-Stuff-27. The labels are panoptic ones, not COCO-Stuff's pixel maps, so absolute figures differ a little from those
of papers. Pixels without a human label don't count.
"""

from __future__ import annotations

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation import quality
from u2seg.evaluation.matching import ONE_TO_ONE, Taxonomy, match_clusters
from u2seg.images import read_image
from u2seg.panoptic import LabelledPhoto, PanopticDataset
from u2seg.plugins.api import FeatureExtractor, Refiner, StuffSegmenter
from u2seg.pseudo.refine.masks import refine_stuff
from u2seg.runtime import track
from u2seg.structures import STUFF_VOID

SUPERCATEGORIES = ("supercategory", "supercategory")
"""Levels of things and of stuff in a `Taxonomy` of the human classes above."""


def score_segmenter(
    segmenter: StuffSegmenter, extractor: FeatureExtractor, refiner: Refiner, dataset: PanopticDataset
) -> dict[str, float]:
    """`cluster_scores` of a segmenter on the photos of ``dataset``.

    Raises:
        DataError: there is no photo, or a category has no supercategory.
    """
    if not dataset.photos:
        raise DataError(f"{dataset.json_file} has no labelled photo to score by")
    classes, tables = Taxonomy.of(dataset, *SUPERCATEGORIES), []
    for photo in track(dataset.photos, "stuff evaluation", len(dataset.photos)):
        image = read_image(dataset.photo_path(photo))
        predicted = refine_stuff(refiner, image, segmenter.segment(image, extractor.extract([image])[0]))
        truth = read_classes(dataset, photo, classes)
        tables.append(count_overlap(predicted, truth, segmenter.num_classes, len(classes)))
    return cluster_scores(np.stack(tables))


def read_classes(dataset: PanopticDataset, photo: LabelledPhoto, taxonomy: Taxonomy) -> np.ndarray:
    """Class of each pixel of ``photo``, uint8 (H, W) in [0, C), 255 for void."""
    ids = dataset.read_ids(photo)
    classes = np.full(ids.shape, STUFF_VOID, np.uint8)
    for segment in photo.segments:
        classes[ids == segment.id] = taxonomy.class_of[segment.category_id]
    return classes


def count_overlap(predicted: np.ndarray, truth: np.ndarray, num_clusters: int, num_classes: int) -> np.ndarray:
    """Pixels int64 (K + 1, C) that cluster and class share; the last row is for no cluster.

    ``predicted`` is uint8 (H, W) in [0, K), 255 for none; ``truth`` uint8 (H, W) in [0, C), 255 for void.
    """
    keep = truth != STUFF_VOID
    rows = np.minimum(predicted[keep].astype(np.int64), num_clusters)
    counts = np.bincount(rows * num_classes + truth[keep], minlength=(num_clusters + 1) * num_classes)
    return counts.reshape(num_clusters + 1, num_classes)


def cluster_scores(tables: np.ndarray) -> dict[str, float]:
    """Pixel accuracy and mIoU in percent, from ``tables`` int64 (n, K + 1, C) of the photos.

    ``*_fit_on_set``: clusters matched to classes, one to one, on the photos that are scored, as papers do.
    ``*_fit_on_half``: matched on every other photo and scored on the rest, and the other way round; the mean. Only with
    two photos or more.
    """
    whole, even, odd = tables.sum(axis=0), tables[::2].sum(axis=0), tables[1::2].sum(axis=0)
    folds = {"fit_on_set": [(whole, whole)]}
    if len(tables) > 1:
        folds["fit_on_half"] = [(even, odd), (odd, even)]
    scores: dict[str, float] = {}
    for fold, pairs in folds.items():
        figures = [semantic_scores(scored, match_clusters(fitted[:-1], ONE_TO_ONE)) for fitted, scored in pairs]
        scores |= {f"{key}_{fold}": float(np.mean([each[key] for each in figures])) for key in figures[0]}
    return scores


def semantic_scores(table: np.ndarray, class_of: np.ndarray) -> dict[str, float]:
    """``pixel_accuracy`` and ``miou`` in percent, over the classes that have pixels.

    ``table`` is that of `count_overlap`; ``class_of`` int64 (K,) the class of each cluster, -1 for none.
    """
    confusion = np.zeros((table.shape[1], table.shape[1] + 1), np.int64)
    np.add.at(confusion.T, np.append(class_of, -1), table)  # -1 is the last column, for none
    scores = quality.semantic_scores(confusion, np.ones(len(confusion), bool))
    return {name: 100 * value for name, value in scores.items()}
