"""Panoptic datasets in Detectron2's catalogs, named by their directory.

Those of tools/generate_pseudo.py and of datasets/prepare_*.py are. Things and stuff are counted off their categories,
and nowhere else.

K thing classes, S stuff classes. Contiguous ids: things 0..K-1, stuff 1..S in ``sem_seg``, where 0 is any thing.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from fvcore.common.config import CfgNode

from u2seg.errors import DataError, UsageError, closest
from u2seg.files import file_state
from u2seg.panoptic import PANOPTIC_JSON, PanopticDataset, read_panoptic
from u2seg.panoptic.photos import OnDemand
from u2seg.structures import STUFF_VOID, LabelSpace

SCHEME = "pseudo://"
EVALUATOR_TYPE = "u2seg_panoptic"


def register_pseudo_dataset(path: str | os.PathLike[str]) -> str:
    """Register the dataset in directory ``path`` and return its name in the catalogs.

    Doing it again changes nothing, unless the file changed in between: then the new one counts. Call it in every
    process (inside ``main``), since spawned ones start with empty catalogs.

    Raises:
        UsageError: there is no such directory, or no ``panoptic.json`` in it.
        DataError: the file does not hold a panoptic dataset.
    """
    root = Path(str(path).removeprefix(SCHEME)).expanduser().absolute()
    if not root.is_dir():
        raise UsageError(f"dataset directory {str(root)!r} does not exist; tools/generate_pseudo.py makes one")
    name = f"{SCHEME}{root.as_posix()}"
    file = root / PANOPTIC_JSON
    fingerprint = file_state(file) if file.is_file() else ()
    if name in DatasetCatalog:
        if MetadataCatalog.get(name).fingerprint == fingerprint:
            return name
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    dataset = read_panoptic(root)
    DatasetCatalog.register(name, functools.partial(load_pseudo_dataset, str(root)))
    MetadataCatalog.get(name).set(**_metadata(dataset), fingerprint=fingerprint)
    return name


class DatasetDicts(OnDemand[dict[str, Any]]):
    """Dataset dicts of a panoptic dataset, each made when it is asked for, in the order of the annotations.

    They have ``file_name`` (photo), ``image_id``, ``height``, ``width`` (pixels), ``pan_seg_file_name`` and
    ``segments_info``, whose ``category_id`` is contiguous: 0..K-1 for things, 1..S for stuff.
    """

    def __init__(self, dataset: PanopticDataset) -> None:
        things, stuff = _contiguous_ids(dataset)
        self._dataset, self._ids = dataset, things | stuff

    def __len__(self) -> int:
        return len(self._dataset.photos)

    def at(self, place: int) -> dict[str, Any]:
        """The dict of the photo at ``place``."""
        photo = self._dataset.photos.at(place)
        return {
            "file_name": str(self._dataset.photo_path(photo)),
            "image_id": photo.image_id,
            "height": photo.height,
            "width": photo.width,
            "pan_seg_file_name": str(self._dataset.png_path(photo)),
            "segments_info": [
                {"id": s.id, "category_id": self._ids[s.category_id], "isthing": s.isthing, "iscrowd": int(s.iscrowd)}
                for s in photo.segments
            ],
        }


def load_pseudo_dataset(path: str | os.PathLike[str]) -> DatasetDicts:
    """Dataset dicts of the directory ``path``.

    Raises:
        DataError: the file contradicts itself.
    """
    return DatasetDicts(read_panoptic(Path(path)))


def _contiguous_ids(dataset: PanopticDataset) -> tuple[dict[int, int], dict[int, int]]:
    """``category_id`` of the file to thing id 0..K-1, and to stuff id 1..S."""
    things = {category.id: index for index, category in enumerate(dataset.things)}
    return things, {category.id: index for index, category in enumerate(dataset.stuff, start=1)}


def _metadata(dataset: PanopticDataset) -> dict[str, Any]:
    """What Detectron2's visualizer and evaluators, and ours, ask a dataset for."""
    things, stuff = _contiguous_ids(dataset)
    return {
        "evaluator_type": EVALUATOR_TYPE,
        "num_photos": len(dataset.photos),
        "label_space": LabelSpace(len(things), len(stuff)),
        "panoptic_json": str(dataset.json_file),
        "panoptic_root": str(dataset.panoptic_root),
        "image_root": str(dataset.image_root),
        "thing_classes": [category.name for category in dataset.things],
        "thing_colors": [list(category.color) for category in dataset.things],
        "stuff_classes": ["things", *(category.name for category in dataset.stuff)],
        "stuff_colors": [[255, 255, 255], *(list(category.color) for category in dataset.stuff)],
        "thing_dataset_id_to_contiguous_id": things,
        # 0 stands for every thing, as in Detectron2's own "separated" panoptic sets
        "stuff_dataset_id_to_contiguous_id": {0: 0} | stuff,
        "ignore_label": STUFF_VOID,
        "label_divisor": 1000,
    }


def register_datasets(cfg: CfgNode, train: bool = True) -> None:
    """Register every directory that ``DATASETS.TRAIN`` and ``DATASETS.TEST`` name, and put its catalog name there.

    Without ``train``, as for evaluation alone, ``DATASETS.TRAIN`` becomes empty.

    Raises:
        UsageError: an entry is neither a registered dataset nor a dataset's directory, or can't be trained on.
        DataError: a set to test on is empty.
    """
    # A folder called 2024 is a number in a YAML list.
    cfg.DATASETS.TRAIN = tuple(_resolve("DATASETS.TRAIN", str(name)) for name in cfg.DATASETS.TRAIN) if train else ()
    cfg.DATASETS.TEST = tuple(_resolve("DATASETS.TEST", str(name)) for name in cfg.DATASETS.TEST)
    for name in cfg.DATASETS.TEST:
        if MetadataCatalog.get(name).get("num_photos") == 0:
            raise DataError(f"DATASETS.TEST: {name} has no photo with a label")
    for name in cfg.DATASETS.TRAIN:
        if "label_space" not in MetadataCatalog.get(name).as_dict():
            raise UsageError(
                f"DATASETS.TRAIN: {name!r} is registered without a label_space, and its class ids need not be those of "
                "the heads; give the directory of a u2seg dataset (datasets/prepare_coco.py makes one of COCO's labels)"
            )


def _resolve(key: str, name: str) -> str:
    """The catalog's name of an entry of ``key``."""
    if name in DatasetCatalog and not name.startswith(SCHEME):
        return name
    try:
        return register_pseudo_dataset(name)
    except UsageError as error:
        hint = closest(name, DatasetCatalog.list())
        raise UsageError(f"{key}: no registered dataset is named {name!r}, and {error}.{hint}") from error


def set_class_counts(cfg: CfgNode) -> None:
    """Put the class counts of the training set into ``MODEL.ROI_HEADS`` and ``MODEL.SEM_SEG_HEAD``, where they are 0.

    Raises:
        UsageError: the config says another count, or two training sets differ.
        DataError: the set has no thing classes.
    """
    for name in cfg.DATASETS.TRAIN:
        space = MetadataCatalog.get(name).label_space
        if space.num_things == 0:
            raise DataError(f"{name} has no thing categories; a panoptic model needs one or more")
        for group, count, kind in (
            ("ROI_HEADS", space.num_things, "thing categories"),
            ("SEM_SEG_HEAD", space.num_stuff + 1, "stuff categories and 'a thing'"),
        ):
            node = cfg.MODEL[group]
            if node.NUM_CLASSES not in (0, count):
                raise UsageError(
                    f"MODEL.{group}.NUM_CLASSES is {node.NUM_CLASSES}, but {name} has {count} {kind}; "
                    "0 takes the count from the dataset"
                )
            node.NUM_CLASSES = count
