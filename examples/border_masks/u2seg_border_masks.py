"""A mask generator for u2seg: what looks unlike the border of the photo is a thing.

``pip install -e examples/border_masks``, then ``U2SEG.MASKS.NAME border`` and, if you like,
``U2SEG.MASKS.ARGS.border.threshold 0.3``.
"""

import numpy as np

from u2seg import MaskSet, hookimpl


@hookimpl
def u2seg_mask_generators():
    return {"border": BorderMasks}


class BorderMasks:
    """Connected regions whose features are far from the mean feature of the photo's border."""

    def __init__(self, *, threshold: float = 0.4, min_area: float = 0.01) -> None:
        self.threshold = threshold  # 1 - cosine
        self.min_area = min_area  # share of the photo's area

    def generate(self, image: np.ndarray, features: np.ndarray) -> MaskSet:
        """Masks bool (N, h, w) from ``features`` float32 (D, h, w); u2seg brings them to pixels."""
        from scipy.ndimage import label

        unit = features / np.maximum(np.linalg.norm(features, axis=0), 1e-8)
        edge = np.concatenate([unit[:, 0], unit[:, -1], unit[:, :, 0], unit[:, :, -1]], axis=1).mean(axis=1)
        distance = 1 - np.tensordot(edge / max(np.linalg.norm(edge), 1e-8), unit, axes=1)
        regions, count = label(distance > self.threshold)
        masks = [regions == index for index in range(1, count + 1)]
        masks = [mask for mask in masks if mask.mean() >= self.min_area]
        if not masks:
            return MaskSet.empty(*distance.shape)
        scores = [np.clip(distance[mask].mean(), 0, 1) for mask in masks]
        return MaskSet(np.stack(masks), np.array(scores, np.float32))
