"""Panoptic datasets on disk: the one reader and the one writer of the format.

A dataset is a directory with ``panoptic.json`` (COCO panoptic) and ``panoptic/*.png``, whose colours code segment ids
as R + 256 G + 65536 B; ``instances.json`` holds whole masks, which may overlap. ``info.image_root`` says where the
photos lie, ``info.panoptic_root`` where the PNGs lie, both relative to it. Where they say nothing, photos are looked
for in ``images/``, in the directory itself and in a folder called as the JSON file; PNGs in ``panoptic/`` first.
"""

from u2seg.panoptic.codes import LARGEST_ID, decode_ids, encode_ids, read_ids
from u2seg.panoptic.dataset import Category, PanopticDataset
from u2seg.panoptic.instances import Instances, instance_entry, read_instances
from u2seg.panoptic.photos import LabelledPhoto, Photos, SegmentInfo
from u2seg.panoptic.reading import read_panoptic
from u2seg.panoptic.run_lengths import decode_mask
from u2seg.panoptic.writing import INSTANCES_JSON, PANOPTIC_JSON, RUN_JSON, Entry, write_dataset

__all__ = [
    "INSTANCES_JSON",
    "LARGEST_ID",
    "PANOPTIC_JSON",
    "RUN_JSON",
    "Category",
    "Entry",
    "Instances",
    "LabelledPhoto",
    "PanopticDataset",
    "Photos",
    "SegmentInfo",
    "decode_ids",
    "decode_mask",
    "encode_ids",
    "instance_entry",
    "read_ids",
    "read_instances",
    "read_panoptic",
    "write_dataset",
]
