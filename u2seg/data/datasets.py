"""Panoptic datasets in Detectron2's catalogs, named by their path.

A dataset is a directory with ``panoptic.json`` (COCO panoptic; ``info.image_root`` says where the photos lie, else
``images/``) and ``panoptic/*.png`` (or ``info.panoptic_root``). Those of tools/generate_pseudo.py and of
datasets/prepare_*.py are; things and stuff are counted off its categories, and nowhere else.

K thing classes, S stuff classes. Contiguous ids: things 0..K-1, stuff 1..S in ``sem_seg``, where 0 is any thing.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from u2seg.errors import DataError, UsageError, closest
from u2seg.structures import STUFF_VOID, LabelSpace, category_color

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

SCHEME = "pseudo://"
PANOPTIC_JSON = "panoptic.json"
EVALUATOR_TYPE = "u2seg_panoptic"


@dataclass(frozen=True)
class PanopticFolder:
    """Where the parts of a dataset lie, and its categories: things by id, then stuff by id."""

    root: Path
    image_root: Path
    panoptic_root: Path
    things: tuple[dict[str, Any], ...]
    stuff: tuple[dict[str, Any], ...]

    @property
    def label_space(self) -> LabelSpace:
        """K and S."""
        return LabelSpace(len(self.things), len(self.stuff))

    @property
    def contiguous_ids(self) -> dict[int, int]:
        """``category_id`` of the file to thing id 0..K-1 or stuff id 1..S."""
        ids = {category["id"]: index for index, category in enumerate(self.things)}
        return ids | {category["id"]: index + 1 for index, category in enumerate(self.stuff)}


def register_pseudo_dataset(path: str | os.PathLike[str]) -> str:
    """Register the dataset in directory ``path`` and return its name in the catalogs.

    Doing it again changes nothing, unless the file changed in between: then the new one counts. Call it in every
    process (inside ``main``), since spawned ones start with empty catalogs.

    Raises:
        UsageError: there is no such directory, or no ``panoptic.json`` in it.
        DataError: the file does not hold a panoptic dataset.
    """
    root = Path(str(path).removeprefix(SCHEME)).expanduser().absolute()
    file = root / PANOPTIC_JSON
    if not file.is_file():
        what = f"holds no {PANOPTIC_JSON}" if root.is_dir() else "does not exist"
        raise UsageError(f"dataset directory {str(root)!r} {what}; tools/generate_pseudo.py makes one")
    name = f"{SCHEME}{root.as_posix()}"
    state = file.stat()
    fingerprint = (state.st_mtime_ns, state.st_size)
    if name in DatasetCatalog:
        if MetadataCatalog.get(name).fingerprint == fingerprint:
            return name
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    folder = _describe(root, _read(file))
    DatasetCatalog.register(name, functools.partial(load_pseudo_dataset, str(root)))
    MetadataCatalog.get(name).set(**_metadata(folder), fingerprint=fingerprint)
    return name


def load_pseudo_dataset(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Dataset dicts of the directory ``path``, in the order of its annotations.

    Each has ``file_name`` (photo), ``image_id``, ``height``, ``width`` (pixels), ``pan_seg_file_name`` and
    ``segments_info``, whose ``category_id`` is contiguous: 0..K-1 for things, 1..S for stuff.

    Raises:
        DataError: an annotation names a photo or category that the file does not list.
    """
    root = Path(path)
    content = _read(root / PANOPTIC_JSON)
    folder = _describe(root, content)
    images = {image["id"]: image for image in content["images"]}
    things = {category["id"] for category in folder.things}
    ids = folder.contiguous_ids
    return [_entry(folder, annotation, images, ids, things) for annotation in content["annotations"]]


def _entry(
    folder: PanopticFolder,
    annotation: dict[str, Any],
    images: dict[Any, dict[str, Any]],
    ids: dict[int, int],
    things: set[int],
) -> dict[str, Any]:
    try:
        image = images[annotation["image_id"]]
        segments = [
            {**segment, "category_id": ids[segment["category_id"]], "isthing": segment["category_id"] in things}
            for segment in annotation["segments_info"]
        ]
        return {
            "file_name": str(folder.image_root / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "pan_seg_file_name": str(folder.panoptic_root / annotation["file_name"]),
            "segments_info": segments,
        }
    except (KeyError, TypeError) as error:
        label = annotation.get("file_name", annotation) if isinstance(annotation, dict) else annotation
        raise DataError(f"{folder.root / PANOPTIC_JSON}: annotation {label!r} misses or misnames {error}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read as JSON: {' '.join(str(error).split())}") from error
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(content, dict) or key not in content
    ]
    if missing:
        raise DataError(f"{file} is no COCO panoptic file: it has no {', '.join(missing)}")
    return content


def _describe(root: Path, content: dict[str, Any]) -> PanopticFolder:
    info = content.get("info") or {}
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        things = tuple(category for category in categories if category["isthing"])
        stuff = tuple(category for category in categories if not category["isthing"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{root / PANOPTIC_JSON}: a category misses {error}") from error
    # joining with an absolute path gives that path
    image_root = root / Path(info.get("image_root", "images")).expanduser()
    panoptic_root = root / Path(info.get("panoptic_root", "panoptic")).expanduser()
    return PanopticFolder(root, image_root, panoptic_root, things, stuff)


def _metadata(folder: PanopticFolder) -> dict[str, Any]:
    """What Detectron2's visualizer and evaluators, and ours, ask a dataset for."""

    def column(categories: Iterable[dict[str, Any]], key: str) -> list[Any]:
        return [category.get(key) or _default(category, key) for category in categories]

    return {
        "evaluator_type": EVALUATOR_TYPE,
        "label_space": folder.label_space,
        "panoptic_json": str(folder.root / PANOPTIC_JSON),
        "panoptic_root": str(folder.panoptic_root),
        "image_root": str(folder.image_root),
        "thing_classes": column(folder.things, "name"),
        "thing_colors": column(folder.things, "color"),
        "stuff_classes": ["things", *column(folder.stuff, "name")],
        "stuff_colors": [[255, 255, 255], *column(folder.stuff, "color")],
        "thing_dataset_id_to_contiguous_id": {category["id"]: index for index, category in enumerate(folder.things)},
        # 0 stands for every thing, as in Detectron2's own "separated" panoptic sets
        "stuff_dataset_id_to_contiguous_id": {0: 0}
        | {category["id"]: index + 1 for index, category in enumerate(folder.stuff)},
        "ignore_label": STUFF_VOID,
        "label_divisor": 1000,
    }


def _default(category: dict[str, Any], key: str) -> Any:
    return category_color(category["id"]) if key == "color" else f"category {category['id']}"


def register_datasets(cfg: CfgNode, train: bool = True) -> None:
    """Register every directory that ``DATASETS.TRAIN`` and ``DATASETS.TEST`` name, and put its catalog name there.

    Args:
        cfg: changed in place.
        train: False empties ``DATASETS.TRAIN``, as for evaluation alone.

    Raises:
        UsageError: an entry is neither a registered dataset nor a dataset's directory.
    """
    cfg.DATASETS.TRAIN = _resolve("DATASETS.TRAIN", cfg.DATASETS.TRAIN) if train else ()
    cfg.DATASETS.TEST = _resolve("DATASETS.TEST", cfg.DATASETS.TEST)


def _resolve(key: str, entries: Sequence[str] | str) -> tuple[str, ...]:
    names = (entries,) if isinstance(entries, str) else tuple(entries)
    return tuple(_resolve_entry(key, name) for name in names)


def _resolve_entry(key: str, name: str) -> str:
    if name in DatasetCatalog and not name.startswith(SCHEME):
        return name
    try:
        return register_pseudo_dataset(name)
    except UsageError as error:
        hint = closest(name, DatasetCatalog.list())
        raise UsageError(f"{key}: no registered dataset is named {name!r}, and {error}.{hint}") from error


def label_space_of(name: str) -> LabelSpace | None:
    """K and S of a registered dataset, or None where its metadata does not tell."""
    return MetadataCatalog.get(name).get("label_space")


def set_class_counts(cfg: CfgNode) -> None:
    """Put the class counts of the training set into ``MODEL.ROI_HEADS`` and ``MODEL.SEM_SEG_HEAD``.

    Raises:
        UsageError: the config says another count, or two training sets differ.
        DataError: the set has no thing classes.
    """
    spaces = {name: space for name in cfg.DATASETS.TRAIN if (space := label_space_of(name)) is not None}
    for name, space in spaces.items():
        if space.num_things == 0:
            raise DataError(f"{name} has no thing categories; a panoptic model needs one or more")
        for key, node, count, kind in (
            ("MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS, space.num_things, "thing categories"),
            (
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
                cfg.MODEL.SEM_SEG_HEAD,
                space.num_stuff + 1,
                "stuff categories and 'a thing'",
            ),
        ):
            if node.NUM_CLASSES not in (0, count):
                raise UsageError(
                    f"{key} is {node.NUM_CLASSES}, but {name} has {count} {kind}; "
                    f"leave the key at 0 to take the count from the dataset"
                )
            node.NUM_CLASSES = count
