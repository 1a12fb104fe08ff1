"""The labels that a model was trained on, read back: what a round of self-training adds to.

Shapes: ``h, w`` pixels at which a photo is labelled; ``N`` things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from u2seg import panoptic
from u2seg.errors import DataError, UsageError
from u2seg.fields import read_json_object, told, whole
from u2seg.files import file_sha256
from u2seg.images import Photo, PhotoSet, enlarge, find_photos
from u2seg.structures import STUFF_VOID, MaskSet

KEY = "U2SEG.SELF_TRAINING.LABELS"


@dataclass(frozen=True)
class PhotoLabel:
    """The label of one photo."""

    dataset: panoptic.PanopticDataset  # Without the other photos, since a label travels to workers
    photo: panoptic.LabelledPhoto
    painted: tuple[Mapping[str, Any], ...] | None
    """Annotations of the things that the PNG shows, whole; None where only the PNG tells."""

    def read(self, height: int, width: int) -> tuple[MaskSet, np.ndarray, np.ndarray]:
        """The label at ``height`` x ``width`` = h x w.

        Returns:
            Things with masks bool (N, h, w); their clusters int64 (N,); the stuff map uint8 (h, w), 255 for none.

        Raises:
            DataError: the PNG is missing, damaged or of another size than the photo.
        """
        ids = enlarge(self.dataset.read_ids(self.photo), height, width)
        stuff = np.full(ids.shape, STUFF_VOID, np.uint8)
        things = []
        for segment in self.photo.segments:
            if not segment.isthing:
                stuff[ids == segment.id] = segment.category_id - len(self.dataset.things) - 1
            elif self.painted is None:
                things.append((ids == segment.id, segment.score, segment.category_id))
        for thing in self.painted or ():
            mask = enlarge(panoptic.decode_mask(thing["segmentation"]), height, width)
            things.append((mask, thing["score"], thing["category_id"]))
        things = [thing for thing in things if thing[0].any()]  # a small one may have no pixel at this size
        masks = np.array([mask for mask, _, _ in things], bool).reshape(-1, height, width)
        scores = np.array([score for _, score, _ in things], np.float32)
        return MaskSet(masks, scores), np.array([category - 1 for _, _, category in things], np.int64), stuff


class EarlierLabels:
    """A dataset of tools/generate_pseudo.py. The label of a photo is made when it is asked for."""

    def __init__(self, directory: str) -> None:
        """Read ``panoptic.json`` and ``run.json`` of ``directory``.

        Raises:
            UsageError: there is no ``panoptic.json``.
            DataError: they are damaged, empty, or of classes that this package does not number.
        """
        root = Path(directory).expanduser().absolute()
        if not directory or not (root / panoptic.PANOPTIC_JSON).is_file():
            raise UsageError(
                f"{KEY} {directory!r} holds no {panoptic.PANOPTIC_JSON}: name the directory of the labels that the "
                "model was trained on, as tools/generate_pseudo.py makes it"
            )
        self.dataset = panoptic.read_panoptic(root)
        if not self.dataset.photos:
            raise DataError(f"{self.dataset.json_file} lists no photo that has a label")
        self.space = self.dataset.label_space()
        if not all(isinstance(image_id, int) for image_id in self.dataset.photos.image_ids):
            raise DataError(f"{self.dataset.json_file}: image ids must be whole numbers here, not text")
        self._without_photos = self.dataset.without_photos()
        run = read_json_object(root / panoptic.RUN_JSON) if (root / panoptic.RUN_JSON).is_file() else {}
        earlier = run["self_training"] if isinstance(run.get("self_training"), dict) else {}
        self.round = told(f"{root / panoptic.RUN_JSON}: self_training", whole, earlier, "round", 0, 10**6, 0)
        """0 for the labels of the factory, t for those of the t-th round of self-training."""
        self.caveats = [str(caveat) for caveat in run["caveats"]] if isinstance(run.get("caveats"), list) else []
        """What its run.json says against calling it unsupervised."""

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Hash of each JSON file that the labels are read from, by its name."""
        files = (self.dataset.root / panoptic.PANOPTIC_JSON, self.dataset.root / panoptic.INSTANCES_JSON)
        return {path.name: file_sha256(path) for path in files if path.is_file()}

    @cached_property
    def _instances(self) -> panoptic.Instances | None:
        """All whole masks; None where no file says which segment shows each of them."""
        instances = panoptic.read_instances(self.dataset)
        return instances if instances and instances.has_segment_ids else None

    def label(self, image_id: int) -> PhotoLabel:
        """The label of a photo.

        Raises:
            DataError: ``instances.json``, which is read when the first label is asked for, is damaged.
        """
        photo, instances = self.dataset.photos.at(self.dataset.place[image_id]), self._instances
        painted = None if instances is None else tuple(e for e in instances[image_id] if e["segment_id"])
        return PhotoLabel(self._without_photos, photo, painted)

    def photo_set(self, images: str | None = None, image_root: str | None = None) -> PhotoSet:
        """The photos that have a label, with the ids and label names of these labels.

        Args:
            images: which of them, as for `find_photos`; all by default.
            image_root: where they lie now, if they have moved.

        Raises:
            UsageError: ``images`` names a photo that has no label.
        """
        base = (Path(image_root).expanduser() if image_root else self.dataset.image_root).absolute()
        photos = self.dataset.photos
        columns = zip(photos.image_ids, photos.file_names, photos.labels, strict=True)
        labelled = {name: Photo(int(number), name, str(base / name), label) for number, name, label in sorted(columns)}
        if not images:
            return PhotoSet(base, tuple(labelled.values()), numbered=True)
        chosen = find_photos(images, image_root)
        paths = {photo.name: photo.path for photo in chosen.photos}
        strange = [name for name in paths if name not in labelled]
        if strange:
            raise UsageError(
                f"{len(strange)} of the {len(chosen)} photos are not in {KEY} {str(self.dataset.root)!r}, such as "
                f"{strange[0]!r}; leave --images out to use its photos, or give --image-root the folder that "
                f"names like {next(iter(labelled))!r} are relative to"
            )
        kept = tuple(replace(photo, path=paths[name]) for name, photo in labelled.items() if name in paths)
        return replace(chosen, photos=kept, numbered=True)
