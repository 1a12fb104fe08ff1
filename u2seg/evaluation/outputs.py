"""Outputs of a panoptic model as tables: Detectron2's format, without importing Detectron2.

Shapes: ``H, W`` photo pixels; ``N`` detections of a photo; ``P`` its predicted segments; ``S`` stuff clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.matching import Scoring, Taxonomy
from u2seg.evaluation.tables import SEGMENT, VOID, Table, compare_maps, join_rows
from u2seg.panoptic import LabelledPhoto, PanopticDataset, SegmentInfo
from u2seg.panoptic.run_lengths import encode_masks
from u2seg.structures import LabelSpace


class ModelImage(NamedTuple):
    """One photo's outputs beside its human label."""

    image_id: Any
    table: Table
    detections: np.ndarray | None  # `SEGMENT` (N,); None if the model gives none
    regions: Table | None  # What the semantic head says; None if nobody asked or it says nothing


def read_output(
    gt: PanopticDataset, photo: LabelledPhoto, output: Mapping[str, Any], space: LabelSpace, with_regions: bool
) -> ModelImage:
    """What a model says of ``photo`` beside its human label on disk.

    Args:
        gt: the human labels.
        photo: one of them.
        output: ``panoptic_seg`` (ids int (H, W) tensor, 0 void, and segments with contiguous classes: things 0..K-1,
            stuff 1..S) and, if the model has them, ``instances`` and ``sem_seg`` (scores (S+1, H, W), channel 0 for
            things).
        space: the model's classes.
        with_regions: also compare what the semantic head says.

    Raises:
        DataError: there are no segments, or label and output differ in size; the message names the photo.
    """
    regions = None
    try:
        if "panoptic_seg" not in output or output["panoptic_seg"][1] is None:
            raise DataError("the model gives no panoptic_seg with segments")
        ids, entries = output["panoptic_seg"]
        gt_ids = gt.read_ids(photo)
        segments = [_segment(entry, space) for entry in entries]
        table = compare_maps(gt_ids, ids.cpu().numpy(), photo.segments, segments, of_model=True)
        if with_regions and output.get("sem_seg") is not None:
            clusters = output["sem_seg"].max(dim=0).indices.cpu().numpy()  # on a CPU, a third of argmax's time
            stuff = [SegmentInfo(i, space.stuff_category(i - 1), isthing=False) for i in range(1, space.num_stuff + 1)]
            regions = replace(compare_maps(gt_ids, clusters, photo.segments, stuff, of_model=True), gt=table.gt)
    except DataError as error:
        raise DataError(f"photo {photo.file_name!r}: {error}") from error
    origin = {entry["id"]: entry.get("instance_id", VOID) for entry in entries if entry["isthing"]}
    if regions is not None:
        region_of = {category: index for index, category in enumerate(regions.pred["category"].tolist())}
        origin |= {s.id: region_of.get(s.category_id, VOID) for s in segments if not s.isthing}
    table.pred["origin"] = [origin.get(number, VOID) for number in table.pred["id"].tolist()]
    detections = _detections(output["instances"], space) if "instances" in output else None
    return ModelImage(photo.image_id, table, detections, regions)


def _segment(entry: Mapping[str, Any], space: LabelSpace) -> SegmentInfo:
    index, isthing = int(entry["category_id"]), bool(entry["isthing"])
    category = space.thing_category(index) if isthing else space.stuff_category(index - 1)
    return SegmentInfo(int(entry["id"]), category, isthing, score=float(entry.get("score", 1.0)))


def _detections(instances: Any, space: LabelSpace) -> np.ndarray:
    """`SEGMENT` (N,) of Detectron2's ``Instances``."""
    rows = np.zeros(len(instances), SEGMENT)
    rows["category"] = instances.pred_classes.cpu().numpy().astype(np.int64) + space.thing_category(0)
    rows["isthing"], rows["score"] = True, instances.scores.cpu().numpy()
    rows["box"] = instances.pred_boxes.tensor.cpu().numpy()
    rows["box"][:, 2:] -= rows["box"][:, :2]  # from left, top, right, bottom
    codes = encode_masks(instances.pred_masks.cpu().numpy().astype(bool, copy=False))
    rows["code"] = [code["counts"] for code in codes]
    return rows


def join_outputs(images: Sequence[ModelImage], space: LabelSpace, taxonomy: Taxonomy, scoring: Scoring) -> Comparison:
    """All photos of a set, in their order; detections and regions only where every photo has them."""
    table = Table.join([image.table for image in images])
    heads = [image.regions for image in images if image.regions is not None]
    instances = [image.detections for image in images if image.detections is not None]
    isthing, origin, start = table.pred["isthing"], table.pred["origin"], len(table.pred)
    for kind, parts in ((isthing, instances), (~isthing, [head.pred for head in heads])):
        if len(parts) < len(images):
            origin[kind] = VOID
            continue
        starts = start + np.cumsum([0, *map(len, parts)])  # the members of each image
        made = kind & (origin != VOID)
        origin[made] += starts[table.pred["image"][made]]
        start = starts[-1]
    return Comparison(
        table,
        taxonomy,
        np.arange(1, space.num_things + space.num_stuff + 1),
        space.num_things,
        scoring,
        detections=join_rows(instances) if len(instances) == len(images) else None,
        regions=Table.join(heads) if len(heads) == len(images) else None,
    )
