"""Predictions as a dataset in the layout of tools/generate_pseudo.py, for the gallery and tools/evaluate_pseudo.py.

``panoptic.json``, ``panoptic/*.png`` and ``instances.json``, all written whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

import u2seg
from u2seg.engine.names import ClassNames
from u2seg.engine.results import Instances, Prediction
from u2seg.errors import UsageError
from u2seg.images import Photo
from u2seg.panoptic import encode_ids
from u2seg.pseudo.store import OutputDirectory


class PanopticWriter:
    """Collects predictions in one directory; `finish` makes the dataset of what was added so far."""

    def __init__(self, directory: str | os.PathLike[str], image_root: Path, names: ClassNames) -> None:
        """Open ``directory``.

        Args:
            directory: made if need be; an earlier run's predictions in it are replaced.
            image_root: folder that the photos' names are relative to.
            names: classes of the model.

        Raises:
            UsageError: it can't be written, or holds labels, which predictions must not replace.
        """
        self.output = OutputDirectory(Path(directory).expanduser())
        if (self.output.root / "run.json").exists() or (self.output.stages / "settings.json").exists():
            raise UsageError(f"{directory} holds labels of tools/generate_pseudo.py; save predictions elsewhere")
        self.output.open()
        self.image_root = image_root
        self.names = names
        self._images: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []
        self._instances: list[dict[str, Any]] = []

    def add(self, photo: Photo, prediction: Prediction) -> None:
        """Write the PNG of one photo and keep what the JSON files say of it."""
        height, width = prediction.panoptic.shape
        self.output.write_png(self.output.panoptic_file(photo.label), encode_ids(prediction.panoptic))
        self._images.append({"id": photo.id, "file_name": photo.name, "height": height, "width": width})
        segments = [segment.to_coco() for segment in prediction.segments]
        self._panoptic.append({"image_id": photo.id, "file_name": photo.label, "segments_info": segments})
        for entry in instance_entries(prediction.instances):
            self._instances.append({"id": len(self._instances) + 1, "image_id": photo.id, **entry})

    def finish(self, weights: str) -> Path:
        """Write the JSON files and return ``panoptic.json``.

        Args:
            weights: where the model came from, for the record.
        """
        info = {
            "description": f"predictions of {weights} by u2seg {u2seg.__version__}",
            "image_root": str(self.image_root),
        }
        categories = self.names.categories()
        file = self.output.root / "panoptic.json"
        things = [entry for entry in categories if entry["isthing"]]
        lists = {"images": self._images, "annotations": self._instances}
        self.output.write_json_lists(self.output.root / "instances.json", {"info": info, "categories": things}, lists)
        lists = {"images": self._images, "annotations": self._panoptic}
        self.output.write_json_lists(file, {"info": info, "categories": categories}, lists)
        self.output.clean()
        self.output.stages.rmdir()
        return file


def instance_entries(instances: Instances) -> list[dict[str, Any]]:
    """COCO annotations of ``instances`` without their ids; empty masks are left out."""
    from pycocotools import mask as coco

    entries = []
    for mask, score, category in zip(instances.masks, instances.scores, instances.category_ids, strict=True):
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        area = int(coco.area(code))
        if not area:
            continue
        entries.append(
            {
                "category_id": int(category),
                "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode("ascii")},
                "area": area,
                "bbox": [round(float(value), 1) for value in coco.toBbox(code)],
                "iscrowd": 0,
                "score": round(float(score), 6),
            }
        )
    return entries
