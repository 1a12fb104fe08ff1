"""What happens to a photo and its label: Detectron2's transforms of both alike, and copy-paste between photos.

Shapes: ``H, W`` image pixels; ``h, w`` pixels of a pasted photo; ``N`` things of the target; ``m`` things to paste.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from detectron2.data import transforms as T  # noqa: N812
from detectron2.data.detection_utils import build_augmentation
from fvcore.common.config import CfgNode
from PIL import Image

from u2seg.data.targets import LabelledImage
from u2seg.images import enlarge

MAX_OVERLAP = 0.5
"""IoU with a thing of the target from which on a pasted thing is dropped (CutLER, CVPR 2023)."""


class Resize(T.Augmentation):
    """A resize of Detectron2's that leaves a strip of a photo, 200 times as long as high, one pixel of height."""

    def __init__(self, resize: T.Augmentation) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for ``image`` uint8 (H, W, 3)."""
        transform = self.resize.get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of ``cfg.INPUT``: large-scale jitter or several sizes, cropping, flips."""
    chain = build_augmentation(cfg, is_train)
    chain[0] = Resize(chain[0])
    if not is_train:
        return chain
    jitter = cfg.INPUT.LARGE_SCALE_JITTER
    if jitter.ENABLED:
        size = jitter.SIZE
        resize = Resize(T.ResizeScale(jitter.MIN_SCALE, jitter.MAX_SCALE, size, size))
        return [resize, T.FixedSizeCrop((size, size)), *chain[1:]]
    if cfg.INPUT.CROP.ENABLED:
        chain.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return chain


def copy_paste(
    target: LabelledImage, source: LabelledImage, rng: np.random.Generator, scale: tuple[float, float] = (0.3, 1.0)
) -> LabelledImage:
    """Paste a random subset of the things of ``source`` onto ``target``.

    The source photo is brought to the target's size times one random factor and shifted at random inside the target. A
    thing that would overlap one of the target's by an IoU of `MAX_OVERLAP` or more is dropped. Photo and semantic label
    of pasted pixels come along. Pasted masks stay as they lay in their photo; those of the target lose what is pasted
    over, so that a partition stays one.

    Source: Copy-Paste (Ghiasi et al., CVPR 2021), as CutLER (CVPR 2023, section 3.5) uses it. That every number of
    things is equally likely is our choice.

    Args:
        target: what is pasted on; left as it is.
        source: whose things are pasted.
        rng: draws how many things, which, the factor, and the place down and across.
        scale: smallest and largest factor.

    Returns:
        A new sample of the target's size; pasted things stand after the target's.
    """
    count = len(source.masks)
    if not count:
        return target
    subset = np.sort(rng.choice(count, rng.integers(1, count + 1), replace=False))
    frame, factor = target.sem_seg.shape, rng.uniform(*scale)
    h, w = (max(1, round(side * factor)) for side in frame)
    top, left = int(rng.integers(frame[0] - h + 1)), int(rng.integers(frame[1] - w + 1))
    place = np.s_[..., top : top + h, left : left + w]
    inside, areas = target.masks[place], _count_pixels(target.masks)

    masks = np.array([enlarge(source.masks[index], h, w) for index in subset])
    fits = np.array([mask.any() and _overlap(mask, inside, areas) < MAX_OVERLAP for mask in masks])
    pasted, classes = masks[fits], source.classes[subset[fits]]
    union = pasted.any(axis=0)

    visible = _count_pixels(union & each for each in inside) < areas
    kept = target.masks[visible]
    kept[place] &= ~union
    added = np.zeros((len(pasted), *frame), bool)
    added[place] = pasted
    image, sem_seg = target.image.copy(order="K"), target.sem_seg.copy()
    for channel in range(3):  # each lies in one piece in a tensor's image
        photo = np.asarray(Image.fromarray(source.image[..., channel]).resize((w, h), Image.Resampling.BILINEAR))
        np.copyto(image[..., channel][place], photo, where=union)
    np.copyto(sem_seg[place], enlarge(source.sem_seg, h, w), where=union)
    of_all = np.append(target.classes[visible], classes)
    return LabelledImage(image, np.concatenate([kept, added]), of_all, sem_seg)


def _overlap(mask: np.ndarray, things: np.ndarray, areas: np.ndarray) -> float:
    """Largest IoU of ``mask`` bool (h, w) with ``things`` bool (N, h, w), which have ``areas`` (N,) pixels in all."""
    shared = _count_pixels(mask & thing for thing in things)
    return float((shared / (areas + np.count_nonzero(mask) - shared)).max(initial=0))


def _count_pixels(masks: Iterable[np.ndarray]) -> np.ndarray:
    """int64 (N,), many times faster than sums over axes."""
    return np.array([np.count_nonzero(mask) for mask in masks], np.int64)
