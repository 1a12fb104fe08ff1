"""Copy-paste object by object on full-size masks, as the method reads. Slow on purpose.

Written from Ghiasi et al., "Simple copy-paste" (CVPR 2021), and CutLER (CVPR 2023, section 3.5); shares no code with
the package. Draws from ``rng`` what the fast one draws, in its order: the factor, then the place down and across.

Shapes: ``H, W`` pixels of the target; ``h, w`` of the shrunk source; ``N`` things.
"""

import numpy as np
from PIL import Image


def shrink_mask(mask, h, w):
    """The nearest pixel of ``mask`` for each pixel of a grid (h, w), by pixel centres."""
    y = [int((row + 0.5) * mask.shape[0] / h) for row in range(h)]
    x = [int((column + 0.5) * mask.shape[1] / w) for column in range(w)]
    return mask[y][:, x]


def put(canvas, piece, top, left):
    """``canvas`` with ``piece`` laid on it, the piece's corner at (top, left), what sticks out cut off."""
    H, W = canvas.shape[:2]
    h, w = piece.shape[:2]
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + h, H), min(left + w, W)
    canvas[y0:y1, x0:x1] = piece[y0 - top : y1 - top, x0 - left : x1 - left]
    return canvas


def box_of(mask):
    """x0, y0, x1, y1 of a mask, far edges exclusive."""
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def copy_paste(target, source, rng, scale=(0.3, 1.0)):
    """Paste every thing of ``source`` onto ``target``.

    Args:
        target: ``image`` uint8 (H, W, 3), ``sem_seg`` uint8 (H, W), ``masks`` bool (N, H, W), ``classes``, ``scores``.
        source: the same, of any size.
        rng: draws factor and place.
        scale: smallest and largest factor.

    Returns:
        The same, of the target's size, with ``boxes`` as well; things that are covered wholly are gone.
    """
    H, W = target["sem_seg"].shape
    image, sem_seg = target["image"].copy(), target["sem_seg"].copy()
    masks = [mask.copy() for mask in target["masks"]]
    classes, scores = list(target["classes"]), list(target["scores"])
    if len(source["masks"]):
        factor = rng.uniform(*scale)
        h, w = (max(1, round(side * factor)) for side in source["sem_seg"].shape)
        top, left = (int(rng.integers(min(0, room - side), max(0, room - side) + 1)) for room, side in ((H, h), (W, w)))
    for mask, label, score in zip(source["masks"], source["classes"], source["scores"], strict=True):
        photo = np.asarray(Image.fromarray(source["image"]).resize((w, h), Image.Resampling.BILINEAR))
        photo = put(np.zeros((H, W, 3), np.uint8), photo, top, left)
        pasted = put(np.zeros((H, W), bool), shrink_mask(mask, h, w), top, left)
        image[pasted] = photo[pasted]
        sem_seg[pasted] = 0
        for other in masks:
            other[pasted] = False
        masks.append(pasted)
        classes.append(label)
        scores.append(score)
    kept = [index for index, mask in enumerate(masks) if mask.any()]
    return {
        "image": image,
        "sem_seg": sem_seg,
        "masks": np.array([masks[index] for index in kept], bool).reshape(-1, H, W),
        "boxes": np.array([box_of(masks[index]) for index in kept], np.float32).reshape(-1, 4),
        "classes": np.array([classes[index] for index in kept], np.int64),
        "scores": np.array([scores[index] for index in kept], np.float32),
    }
