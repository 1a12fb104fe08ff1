"""From a dataset dict to what the model takes.

Shapes: ``H, W`` pixels after augmentation; ``N`` things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import transforms as T  # noqa: N812
from detectron2.data.detection_utils import SizeMismatchError, check_image_size
from detectron2.structures import BitMasks, Instances
from detectron2.utils.registry import Registry
from fvcore.common.config import CfgNode

from u2seg.data.augmentation import build_augmentations, copy_paste
from u2seg.data.targets import LabelledImage, derive_targets
from u2seg.data.whole_masks import take_whole_masks
from u2seg.errors import DataError, lookup
from u2seg.fields import told
from u2seg.images import read_image
from u2seg.panoptic import LARGEST_ID, decode_ids, encode_ids, read_ids
from u2seg.panoptic.reading import warn_once
from u2seg.structures import STUFF_VOID

DATASET_MAPPERS = Registry("DATASET_MAPPERS")
"""Classes built as ``mapper(cfg, is_train)``; named by ``INPUT.DATASET_MAPPER_NAME``.

A mapper is called with a dataset dict. It may also have ``mix(samples, rng)``, which is given the mapped samples of a
whole batch and returns as many.
"""

Sample = dict[str, Any]

LABEL_KEYS = ("segments_info", "thing_masks")
"""Of a dataset dict, what a sample no longer has."""


def build_mapper(cfg: CfgNode, is_train: bool) -> Any:
    """The mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

    Raises:
        UsageError: there is none of that name.
    """
    mappers = dict(DATASET_MAPPERS)
    return lookup("dataset mapper (INPUT.DATASET_MAPPER_NAME)", cfg.INPUT.DATASET_MAPPER_NAME, mappers)(cfg, is_train)


@DATASET_MAPPERS.register()
class U2SegDatasetMapper:
    """Reads photo and panoptic PNG, augments both alike, and derives instances and ``sem_seg`` from the PNG.

    Where a dataset dict has ``thing_masks``, as with ``INPUT.THINGS instances``, the instances are those.

    In training a sample holds ``image`` uint8 (3, H, W) in the channel order of ``INPUT.FORMAT``; ``instances`` with
    ``gt_masks`` (BitMasks), ``gt_boxes``, ``gt_classes``; and ``sem_seg`` int64 (H, W), 255 where there is no label.
    In testing, the image alone.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        paste_probability: float = 0.0,
        paste_scale: tuple[float, float] = (0.3, 1.0),
    ) -> None:
        """Make a mapper.

        Args:
            is_train: whether targets are derived.
            augmentations: what is done to photo and label.
            image_format: "RGB" or "BGR".
            paste_probability: share of the samples that `mix` pastes things on; 0 is never.
            paste_scale: smallest and largest factor that pasted things are shrunk by.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.paste_probability = paste_probability
        self.paste_scale = paste_scale

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of the mapper from the keys below ``INPUT``."""
        paste = cfg.INPUT.COPY_PASTE
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "paste_probability": paste.PROBABILITY if is_train and paste.ENABLED else 0.0,
            "paste_scale": (paste.MIN_SCALE, paste.MAX_SCALE),
        }

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Map one dataset dict, which is left as it is.

        Raises:
            DataError: photo or label is missing, damaged, or of another size than the dataset says.
        """
        sample = {key: value for key, value in dataset_dict.items() if key not in LABEL_KEYS}
        image = _read_photo(sample)
        if self.image_format == "BGR":
            image = np.ascontiguousarray(image[:, :, ::-1])
        colours = None
        if self.is_train:
            colours = encode_ids(told("label", read_ids, sample["pan_seg_file_name"], image.shape[:2]))
        augmented = T.AugInput(image, sem_seg=colours)
        transform = self.augmentations(augmented)
        if not self.is_train:
            return sample | {"image": _to_tensor(augmented.image)}
        ids = decode_ids(augmented.sem_seg)
        labelled = derive_targets(augmented.image, ids, dataset_dict["segments_info"])
        unlisted = ids[(labelled.sem_seg == STUFF_VOID) & (ids > 0) & (ids < LARGEST_ID)]  # the largest one pads crops
        if len(unlisted):
            file = sample["pan_seg_file_name"]
            warn_once(f"label {file} holds segment id {unlisted[0]}, which is not listed; its pixels are void")
        if "thing_masks" in dataset_dict:
            labelled = take_whole_masks(labelled, dataset_dict["thing_masks"], transform)
        return sample | _to_tensors(labelled)

    def mix(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        """Paste things of each sample's neighbour in the batch onto it, for a random share of them."""
        if not self.paste_probability or len(samples) < 2:
            return samples
        shift = int(rng.integers(1, len(samples)))
        mixed = []
        for sample, partner in zip(samples, samples[shift:] + samples[:shift], strict=True):
            if rng.random() < self.paste_probability:
                pasted = copy_paste(to_arrays(sample), to_arrays(partner), rng, self.paste_scale)
                sample = sample | _to_tensors(pasted)
            mixed.append(sample)
        return mixed


def _to_tensors(labelled: LabelledImage) -> Sample:
    """What the model takes of a photo."""
    instances = Instances(labelled.sem_seg.shape)
    instances.gt_masks = BitMasks(torch.from_numpy(labelled.masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.from_numpy(labelled.classes)
    sem_seg = torch.from_numpy(labelled.sem_seg.astype(np.int64))
    return {"image": _to_tensor(labelled.image), "instances": instances, "sem_seg": sem_seg}


def to_arrays(sample: Sample) -> LabelledImage:
    """The reverse of `_to_tensors`."""
    image, things = sample["image"].numpy().transpose(1, 2, 0), sample["instances"]
    sem_seg = sample["sem_seg"].numpy().astype(np.uint8)
    return LabelledImage(image, things.gt_masks.tensor.numpy(), things.gt_classes.numpy(), sem_seg)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _read_photo(sample: Sample) -> np.ndarray:
    """Photo uint8 (H, W, 3) RGB of a dataset dict, of the size that it says; a size that is missing is filled in."""
    try:
        image = read_image(sample["file_name"])
        check_image_size(sample, image)
    except (DataError, SizeMismatchError) as error:
        raise DataError(f"photo {sample['file_name']}: {error}") from error
    return image
