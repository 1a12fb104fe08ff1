"""What happens to a photo and its panoptic label before the targets are derived.

Photo and label go through the same Detectron2 transforms; the label travels as the colours of its PNG, uint8
(H, W, 3), so that nearest-neighbour resizing selects ids and never mixes them.

Shapes: ``H, W`` image pixels; ``h, w`` pixels of a pasted photo; ``n`` segments of the target; ``m`` things to paste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectron2.data import transforms as T  # noqa: N812
from detectron2.data.detection_utils import build_augmentation
from fvcore.common.config import CfgNode
from PIL import Image

from u2seg.data.targets import Segments, Targets, derive_targets
from u2seg.images import enlarge

MAX_OVERLAP = 0.5
"""IoU with a thing of the target from which on a pasted thing is dropped (CutLER, CVPR 2023)."""


@dataclass(frozen=True)
class PanopticSample:
    """A photo and its panoptic label."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    segment_ids: np.ndarray
    """unsigned (H, W), numbered 1..n, 0 for nothing"""
    segments: Segments

    @property
    def targets(self) -> Targets:
        """What it teaches."""
        return derive_targets(self.segment_ids, self.segments)


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
    target: PanopticSample, source: PanopticSample, rng: np.random.Generator, scale: tuple[float, float] = (0.3, 1.0)
) -> PanopticSample:
    """Paste a random subset of the things of ``source`` onto ``target``.

    The source photo is brought to the target's size times one random factor and shifted at random inside the target. A
    thing that would overlap one of the target's by an IoU of `MAX_OVERLAP` or more is dropped. The label stays a
    partition: a pixel that is pasted on belongs to the pasted thing and to nothing else.

    Source: Copy-Paste (Ghiasi et al., CVPR 2021), as CutLER (CVPR 2023, section 3.5) uses it. That every number of
    things is equally likely is our choice.

    Args:
        target: what is pasted on; left as it is.
        source: whose things are pasted; crowds are not.
        rng: draws how many things, which, the factor, and the place down and across.
        scale: smallest and largest factor.

    Returns:
        A new sample of the target's size; pasted things are numbered after the target's segments.
    """
    things = np.flatnonzero(source.segments.instances)
    if not len(things):
        return target
    subset = np.sort(rng.choice(things, rng.integers(1, len(things) + 1), replace=False))
    photo, place = shrink_into(target.segment_ids.shape, source.image, rng, scale)
    numbers_of_ids = _assign(len(source.segments.classes), subset, np.arange(1, len(subset) + 1))
    pasted = numbers_of_ids[enlarge(source.segment_ids, *photo.shape[:2])]
    kept = np.flatnonzero(_overlap(target, pasted, place, len(subset)) < MAX_OVERLAP)

    n, new = len(target.segments.classes), subset[kept]
    numbers = _assign(len(subset), kept, np.arange(n + 1, n + 1 + len(kept)))[pasted]
    image, segment_ids = target.image.copy(), target.segment_ids.astype(np.min_scalar_type(n + len(kept)))
    np.copyto(image[place], photo, where=(numbers > 0)[:, :, None])
    np.copyto(segment_ids[place], numbers, where=numbers > 0, casting="same_kind")
    before, after = target.segments, source.segments
    segments = Segments(
        np.append(before.classes, after.classes[new]),
        np.append(before.isthing, after.isthing[new]),
        np.append(before.crowd, after.crowd[new]),
    )
    return PanopticSample(image, segment_ids, segments)


def _assign(count: int, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A table unsigned (count + 1,) from segment ids to ``numbers``, those of ``rows`` + 1; 0 for all others."""
    table = np.zeros(count + 1, np.min_scalar_type(numbers.max(initial=0)))
    table[rows + 1] = numbers
    return table


def shrink_into(
    frame: tuple[int, ...], image: np.ndarray, rng: np.random.Generator, scale: tuple[float, float]
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """``image`` as uint8 (h, w, 3), a share of ``frame`` (H, W) drawn from ``scale``, and its place, drawn too."""
    factor = rng.uniform(*scale)
    h, w = (max(1, round(side * factor)) for side in frame)
    top, left = int(rng.integers(frame[0] - h + 1)), int(rng.integers(frame[1] - w + 1))
    photo = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    return photo, np.s_[top : top + h, left : left + w]


def _overlap(target: PanopticSample, pasted: np.ndarray, place: tuple[slice, slice], count: int) -> np.ndarray:
    """Largest IoU float64 (m,) of each of ``count`` = m things with a thing of ``target``.

    ``pasted`` unsigned (h, w) shows them at ``place``, numbered 1..m, 0 for none.
    """
    n = len(target.segments.classes)
    pairs = target.segment_ids[place] * np.intp(count + 1) + pasted
    shared = np.bincount(pairs.ravel(), minlength=(n + 1) * (count + 1)).reshape(n + 1, count + 1)
    areas = np.bincount(target.segment_ids.ravel(), minlength=n + 1)
    union = areas[:, None] + shared.sum(axis=0) - shared
    iou = shared / np.maximum(union, 1)
    return iou[1:, 1:][target.segments.instances].max(axis=0, initial=0)
