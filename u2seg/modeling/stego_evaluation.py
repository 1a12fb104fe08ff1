"""How well stuff maps fit human classes: cluster probe, linear probe, one-to-one matching.

Shapes: ``n`` photos; ``H, W`` pixels; ``h, w`` feature grid; ``K`` clusters; ``C`` human classes; ``E`` channels of a
code or feature; ``M`` patches.

The human classes are the supercategories of a COCO panoptic dataset: 12 of things and 15 of stuff, the 27 of
COCO-Stuff-27. The labels are panoptic ones, not COCO-Stuff's pixel maps, so absolute figures differ a little from those
of papers. Pixels without a human label don't count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.dataset import LabelledImage, read_panoptic
from u2seg.evaluation.matching import ONE_TO_ONE, match_clusters
from u2seg.evaluation.overlap import read_ids
from u2seg.evaluation.semantic import semantic_scores
from u2seg.evaluation.taxonomy import Taxonomy
from u2seg.structures import STUFF_VOID

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos with human labels at the level of supercategories."""

    names: tuple[str, ...]
    """C classes."""
    photos: tuple[tuple[str, LabelledImage], ...]
    """Path of each photo, and its label."""
    taxonomy: Taxonomy

    def __len__(self) -> int:
        return len(self.photos)

    def truth(self, index: int) -> np.ndarray:
        """Class of each pixel of a photo, uint8 (H, W) in [0, C), 255 for void."""
        label = self.photos[index][1]
        ids = read_ids(label.png)
        table = np.full(int(ids.max(initial=0)) + 1, STUFF_VOID, np.uint8)
        for segment in label.segments:
            table[segment["id"]] = self.taxonomy.class_of[segment["category_id"]]
        return table[ids]


def read_labelled(name: str) -> LabelledPhotos:
    """The registered panoptic dataset ``name``.

    Raises:
        DataError: it has no supercategories, or no photo.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    metadata = MetadataCatalog.get(name)
    found = read_panoptic(metadata.panoptic_json, metadata.panoptic_root)
    taxonomy = Taxonomy.of(found, "supercategory", "supercategory")
    files = {Path(entry["file_name"]).stem: entry["file_name"] for entry in DatasetCatalog.get(name)}
    photos = tuple((files[stem], label) for stem, label in sorted(found.images.items()) if stem in files)
    if not photos:
        raise DataError(f"{name} has no labelled photo")
    return LabelledPhotos(taxonomy.names, photos, taxonomy)


def count_overlap(predicted: np.ndarray, truth: np.ndarray, num_clusters: int, num_classes: int) -> np.ndarray:
    """Pixels int64 (K + 1, C) that cluster and class share; the last row is for no cluster.

    Args:
        predicted: uint8 (H, W) in [0, K), 255 for none.
        truth: uint8 (H, W) in [0, C), 255 for void, which is left out.
        num_clusters: K.
        num_classes: C.
    """
    keep = truth != STUFF_VOID
    rows = np.where(predicted[keep] == STUFF_VOID, num_clusters, predicted[keep]).astype(np.int64)
    flat = rows * num_classes + truth[keep]
    return np.bincount(flat, minlength=(num_clusters + 1) * num_classes).reshape(num_clusters + 1, num_classes)


def _scores(table: np.ndarray, matched: np.ndarray) -> dict[str, float]:
    """Pixel accuracy and mIoU in percent of ``table`` int64 (K + 1, C) with the class ``matched`` (K,) of clusters."""
    classes = table.shape[1]
    confusion = np.zeros((classes, classes + 1), np.int64)
    for cluster, counts in enumerate(table):
        target = matched[cluster] if cluster < len(matched) else -1
        confusion[:, target if target >= 0 else classes] += counts
    found = semantic_scores(confusion, np.ones(classes, bool))
    return {name: 100 * value for name, value in found.items()}


def cluster_scores(tables: np.ndarray) -> dict[str, float]:
    """Figures of clusters in percent, from ``tables`` int64 (n, K + 1, C) of the photos.

    ``*_fit_on_set``: clusters matched to classes, one to one, on the photos that are scored, as papers do.
    ``*_fit_on_half``: matched on every other photo and scored on the rest, and the other way round; the mean. Only with
    two photos or more.
    """
    whole = tables.sum(axis=0)
    found = {f"{k}_fit_on_set": v for k, v in _scores(whole, match_clusters(whole[:-1], ONE_TO_ONE)).items()}
    if len(tables) > 1:
        halves = [tables[::2].sum(axis=0), tables[1::2].sum(axis=0)]
        each = [_scores(scored, match_clusters(fitted[:-1], ONE_TO_ONE)) for fitted, scored in (halves, halves[::-1])]
        found |= {f"{key}_fit_on_half": float(np.mean([scores[key] for scores in each])) for key in each[0]}
    return found


def overlap_tables(
    labelled: LabelledPhotos, num_clusters: int, label: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Tables int64 (n, K + 1, C) of all photos; ``label`` turns a photo uint8 (H, W, 3) into a map uint8 (H, W)."""
    from u2seg.images import read_image
    from u2seg.runtime import Progress

    found = []
    with Progress("stuff evaluation", len(labelled)) as progress:
        for index, (path, _) in enumerate(labelled.photos):
            predicted = label(read_image(path))
            found.append(count_overlap(predicted, labelled.truth(index), num_clusters, len(labelled.names)))
            progress.advance()
    return np.stack(found)


def grid_truth(truth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Class at the middle of each cell of an h x w grid, uint8 (h, w), from ``truth`` uint8 (H, W)."""
    rows = ((np.arange(height) + 0.5) * truth.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * truth.shape[1] / width).astype(int)
    return truth[rows[:, None], columns]


def linear_probe_scores(codes: Sequence[np.ndarray], labelled: LabelledPhotos, seed: int = 0) -> dict[str, float]:
    """Figures in percent of a linear classifier of codes, learnt on every other photo, scored on the rest, both ways.

    Args:
        codes: float32 (E, h, w) of each photo.
        labelled: the photos.
        seed: of the classifier's start.

    Returns:
        ``pixel_accuracy`` and ``miou``; empty with fewer than two photos.
    """
    if len(labelled) < 2:
        return {}
    truths = [labelled.truth(index) for index in range(len(labelled))]
    sets = [list(range(start, len(labelled), 2)) for start in (0, 1)]
    each = []
    for train, test in (sets, sets[::-1]):
        table = np.zeros((len(labelled.names) + 1, len(labelled.names)), np.int64)
        classify = _fit_linear([codes[i] for i in train], [truths[i] for i in train], len(labelled.names), seed)
        for index in test:
            predicted = classify(codes[index], truths[index].shape)
            table += count_overlap(predicted, truths[index], len(labelled.names), len(labelled.names))
        each.append(_scores(table, np.arange(len(labelled.names))))
    return {key: float(np.mean([scores[key] for scores in each])) for key in each[0]}


def _fit_linear(
    codes: Sequence[np.ndarray], truths: Sequence[np.ndarray], num_classes: int, seed: int, steps: int = 300
) -> Callable[[np.ndarray, tuple[int, ...]], np.ndarray]:
    """Multinomial logistic regression on standardised codes; returns what labels codes (E, h, w) at a size (H, W)."""
    import torch
    from torch.nn.functional import cross_entropy, interpolate

    X = torch.from_numpy(np.concatenate([c.reshape(len(c), -1).T for c in codes]).astype(np.float32))
    y = torch.from_numpy(
        np.concatenate([grid_truth(t, *c.shape[1:]).ravel() for c, t in zip(codes, truths, strict=True)]).astype(
            np.int64
        )
    )
    X, y = X[y != STUFF_VOID], y[y != STUFF_VOID]
    mean, deviation = X.mean(dim=0), X.std(dim=0) + 1e-6
    X = (X - mean) / deviation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(X.shape[1], num_classes)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2, weight_decay=1e-4)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(layer(X), y).backward()
            optimizer.step()

    @torch.no_grad()
    def classify(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        flat = torch.from_numpy(values.reshape(len(values), -1).T.astype(np.float32))
        logits = layer((flat - mean) / deviation).T.reshape(1, num_classes, *values.shape[1:])
        return (
            interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]
            .argmax(dim=0)
            .numpy()
            .astype(np.uint8)
        )

    return classify
