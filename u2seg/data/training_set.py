"""The photos that ``DATASETS.TRAIN`` names, compared with their labels before training begins."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from u2seg.data.entries import EntryFile, Sample, share_entries
from u2seg.data.whole_masks import training_entries
from u2seg.errors import DataError, UsageError
from u2seg.panoptic import read_ids
from u2seg.panoptic.agreement import segment_areas

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

LABELS_TO_CHECK = 200
"""That are compared with the JSON before training: a second or so."""


def training_dicts(cfg: CfgNode) -> EntryFile:
    """Dataset dicts of ``DATASETS.TRAIN``, without those that have no segment to learn from.

    Raises:
        UsageError: no training set is named.
        DataError: nothing is left, or labels and their list contradict each other.
    """
    if not cfg.DATASETS.TRAIN:
        raise UsageError("DATASETS.TRAIN is empty: name the directory of a dataset, such as DATASETS.TRAIN my_labels")
    dicts = share_entries(functools.partial(_labelled, cfg))
    check_labels(dicts)
    return dicts


def _labelled(cfg: CfgNode) -> Iterator[Sample]:
    total = kept = 0
    for name in cfg.DATASETS.TRAIN:
        for entry in training_entries(name, cfg):
            labelled = bool(entry["segments_info"] or entry.get("thing_masks"))
            total, kept = total + 1, kept + labelled
            if labelled:
                yield entry
    if not kept:
        raise DataError(f"{', '.join(cfg.DATASETS.TRAIN)}: {total} photos, but none with a segment to learn from")
    if kept < total:
        logger.warning("%d of %d photos have no segment and are left out", total - kept, total)


def check_labels(dicts: Sequence[Sample], count: int = LABELS_TO_CHECK) -> None:
    """Compare some ``count`` PNGs, evenly spread over ``dicts``, with what is listed of them.

    Raises:
        DataError: a PNG is damaged or holds ids that are not listed, or no listed segment has a pixel.
    """
    listed = empty = 0
    for entry in (dicts[place] for place in range(0, len(dicts), -(-len(dicts) // count))):
        if "pan_seg_file_name" not in entry:  # a plugin's
            continue
        file, segments = entry["pan_seg_file_name"], [segment["id"] for segment in entry["segments_info"]]
        size = (entry["height"], entry["width"]) if "height" in entry else None
        areas = segment_areas(read_ids(file, size, "the dataset says"), segments, file)
        listed += len(areas)
        empty += int((areas == 0).sum())
    if empty:
        of_all = f"{empty} of {listed} segments of {min(count, len(dicts))} photos have no pixel in their PNG"
        if empty == listed:
            raise DataError(f"{of_all}, so nothing can be learnt")
        logger.warning("%s", of_all)
