"""What happens to a photo and its panoptic label before the targets are derived.

Photo and label go through the same Detectron2 transforms; the label travels as the colours of its PNG, uint8
(H, W, 3), so that nearest-neighbour resizing selects ids and never mixes them.

Shapes: ``H, W`` image pixels; ``h, w`` pixels of a pasted photo; ``n`` segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from u2seg.data.targets import Segments, segment_rows

if TYPE_CHECKING:
    from detectron2.data.transforms import Augmentation
    from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class PanopticSample:
    """A photo and its panoptic label."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    segment_ids: np.ndarray
    """int32 (H, W); 0, or any id that `segments` does not list, for nothing"""
    segments: Segments


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[Augmentation]:
    """The augmentations of ``cfg.INPUT``: large-scale jitter or several sizes, cropping, flips."""
    import detectron2.data.transforms as T  # noqa: N812
    from detectron2.data.detection_utils import build_augmentation

    chain = build_augmentation(cfg, is_train)
    if not is_train:
        return chain
    jitter = cfg.INPUT.LARGE_SCALE_JITTER
    if jitter.ENABLED:
        size = jitter.SIZE
        resize = T.ResizeScale(jitter.MIN_SCALE, jitter.MAX_SCALE, size, size)
        return [resize, T.FixedSizeCrop((size, size)), *chain[1:]]
    if cfg.INPUT.CROP.ENABLED:
        chain.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return chain


def copy_paste(
    target: PanopticSample, source: PanopticSample, rng: np.random.Generator, scale: tuple[float, float] = (0.3, 1.0)
) -> PanopticSample:
    """Paste the things of ``source`` onto ``target``, all shrunk by one random factor and shifted together.

    The label stays a partition: a pixel that is pasted on belongs to the pasted thing and to nothing else.
    Source: Copy-Paste (Ghiasi et al., CVPR 2021); shrinking by 0.3 to 1.0 as CutLER (CVPR 2023, section 3.5).

    Args:
        target: what is pasted on; left as it is.
        source: whose things are pasted; crowds are not.
        rng: draws the factor and the place.
        scale: smallest and largest factor.

    Returns:
        A new sample of the target's size; ids of pasted things are larger than the target's.
    """
    things = np.flatnonzero(source.segments.isthing & ~source.segments.crowd)
    if not len(things):
        return target
    photo, rows = _shrink(source, rng.uniform(*scale))
    into, out_of = _place(target.image.shape[:2], rows.shape, rng)
    rank = np.full(len(source.segments.ids) + 1, -1, np.int32)
    rank[things] = np.arange(len(things))
    pasted = rank[rows[out_of]]
    inside = pasted >= 0

    first = max(int(target.segment_ids.max(initial=0)), int(target.segments.ids.max(initial=0))) + 1
    image, ids = target.image.copy(), target.segment_ids.copy()
    np.copyto(image[into], photo[out_of], where=inside[:, :, None])
    np.copyto(ids[into], pasted + np.int32(first), where=inside)
    segments = source.segments.take(things)
    added = Segments(
        np.arange(first, first + len(things)), segments.classes, segments.isthing, segments.crowd, segments.scores
    )
    return PanopticSample(image, ids, target.segments.join(added))


def _shrink(sample: PanopticSample, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Photo uint8 (h, w, 3) and rows of its segments int64 (h, w) at ``factor`` times its size."""
    height, width = sample.segment_ids.shape
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    photo = np.asarray(Image.fromarray(sample.image).resize((w, h), Image.Resampling.BILINEAR))
    y = ((np.arange(h) + 0.5) * height / h).astype(int)
    x = ((np.arange(w) + 0.5) * width / w).astype(int)
    return photo, segment_rows(sample.segment_ids[y[:, None], x], sample.segments)


def _place(
    target: tuple[int, int], source: tuple[int, int], rng: np.random.Generator
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a photo of size ``source`` lands on one of size ``target``: inside, or, along a longer side, around it."""
    into, out_of = [], []
    for room, length in zip(target, source, strict=True):
        low, high = min(0, room - length), max(0, room - length)
        start = int(rng.integers(low, high + 1))
        into.append(slice(max(0, start), min(room, start + length)))
        out_of.append(slice(max(0, -start), min(length, room - start)))
    return (into[0], into[1]), (out_of[0], out_of[1])
