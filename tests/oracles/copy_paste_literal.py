"""Copy-paste object by object on full-size masks, as the method reads. Slow on purpose.

Written from Ghiasi et al., "Simple copy-paste" (CVPR 2021), and CutLER (CVPR 2023, section 3.5); shares no code with
the package. Draws from ``rng`` what the fast one draws, in its order: how many things, which, the factor, then the
place down and across.

Shapes: ``H, W`` pixels of the target; ``h, w`` of the shrunk source; ``N`` things.
"""

import numpy as np
from PIL import Image


def resize_mask(mask, h, w):
    """The nearest pixel of ``mask`` for each pixel of a grid (h, w), by pixel centres."""
    y = [int((row + 0.5) * mask.shape[0] / h) for row in range(h)]
    x = [int((column + 0.5) * mask.shape[1] / w) for column in range(w)]
    return mask[y][:, x]


def put(canvas, piece, top, left):
    """``canvas`` with ``piece`` laid on it, the piece's corner at (top, left)."""
    canvas[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    return canvas


def iou(first, second):
    """Intersection over union of two masks."""
    return np.logical_and(first, second).sum() / max(np.logical_or(first, second).sum(), 1)


def copy_paste(target, source, rng, scale=(0.3, 1.0)):
    """Paste a random subset of the things of ``source`` onto ``target``.

    Args:
        target: ``image`` uint8 (H, W, 3), ``sem_seg`` uint8 (H, W), ``masks`` bool (N, H, W), ``classes``.
        source: the same, of any size.
        rng: draws number, things, factor and place.
        scale: smallest and largest factor.

    Returns:
        The same, of the target's size; things that are covered wholly are gone.
    """
    H, W = target["sem_seg"].shape
    image, sem_seg = target["image"].copy(), target["sem_seg"].copy()
    masks, classes = [mask.copy() for mask in target["masks"]], list(target["classes"])
    count = len(source["masks"])
    chosen = []
    if count:
        chosen = sorted(rng.choice(count, rng.integers(1, count + 1), replace=False))
        factor = rng.uniform(*scale)
        h, w = max(1, round(H * factor)), max(1, round(W * factor))
        top, left = int(rng.integers(H - h + 1)), int(rng.integers(W - w + 1))
    for index in chosen:
        photo = np.asarray(Image.fromarray(source["image"]).resize((w, h), Image.Resampling.BILINEAR))
        photo = put(np.zeros((H, W, 3), np.uint8), photo, top, left)
        pasted = put(np.zeros((H, W), bool), resize_mask(source["masks"][index], h, w), top, left)
        if any(iou(pasted, mask) >= 0.5 for mask in target["masks"]):
            continue
        image[pasted] = photo[pasted]
        sem_seg[pasted] = put(np.zeros((H, W), np.uint8), resize_mask(source["sem_seg"], h, w), top, left)[pasted]
        for other in masks[: len(target["masks"])]:  # pasted ones stay whole, should they overlap
            other[pasted] = False
        masks.append(pasted)
        classes.append(source["classes"][index])
    kept = [index for index, mask in enumerate(masks) if mask.any()]
    return {
        "image": image,
        "sem_seg": sem_seg,
        "masks": np.array([masks[index] for index in kept], bool).reshape(-1, H, W),
        "classes": np.array([classes[index] for index in kept], np.int64),
    }
