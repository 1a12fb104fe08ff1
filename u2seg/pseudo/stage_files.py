"""The files that one stage leaves for the next, one for each photo, in ``stages/``.

Shapes: ``H, W`` pixels at which a photo is labelled (its own size, or smaller); ``N`` masks; ``E`` channels of an
embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from u2seg.images import Photo, enlarge
from u2seg.pseudo.store import OutputDirectory
from u2seg.structures import MaskSet


def mask_file(output: OutputDirectory, photo: Photo) -> Path:
    """Where the masks of ``photo`` are."""
    return output.stage_file("masks", photo.label, ".npz")


def write_masks(
    output: OutputDirectory,
    photo: Photo,
    masks: MaskSet,
    embeddings: np.ndarray,
    size: tuple[int, int],
    **more: np.ndarray,
) -> None:
    """Write masks bool (N, H, W), their embeddings float32 (N, E), and the photo's own height and width ``size``.

    ``more`` are further arrays that a generator keeps for a stage of its own.
    """
    from pycocotools import mask as coco

    rles = coco.encode(np.asfortranarray(masks.masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []
    arrays = {
        "photo_size": np.array(size),
        "mask_size": np.array(masks.masks.shape[1:]),
        "counts": np.array([rle["counts"] for rle in rles], dtype=bytes),
        "scores": masks.scores,
        "embeddings": embeddings.astype(np.float32),
        **more,
    }
    output.write_arrays(mask_file(output, photo), arrays)


def read_masks(output: OutputDirectory, photo: Photo) -> tuple[MaskSet, tuple[int, int]]:
    """The masks of ``photo``, bool (N, H, W), and its own height and width in pixels."""
    from pycocotools import mask as coco

    with np.load(mask_file(output, photo)) as file:
        height, width = file["mask_size"].tolist()
        rles = [{"size": [height, width], "counts": counts} for counts in file["counts"].tolist()]
        scores, size = file["scores"], tuple(file["photo_size"].tolist())
    if not rles:
        return MaskSet.empty(height, width), size
    return MaskSet(coco.decode(rles).transpose(2, 0, 1).astype(bool), scores), size


def stuff_file(output: OutputDirectory, photo: Photo) -> Path:
    """Where the stuff map of ``photo`` is."""
    return output.stage_file("stuff", photo.label, ".png")


def merge_file(output: OutputDirectory, photo: Photo) -> Path:
    """Where the entries of ``photo`` for the dataset's JSON files are."""
    return output.stage_file("merge", photo.label, ".json")


def read_stuff(output: OutputDirectory, photo: Photo, size: tuple[int, ...]) -> np.ndarray:
    """The stuff map of ``photo``, uint8 of ``size`` (height, width), 255 for none."""
    with Image.open(stuff_file(output, photo)) as file:
        return enlarge(np.asarray(file), size[0], size[1])
