"""``U2SEG.GENERATOR BrightnessGenerator``: a whole label generator, which u2seg runs, resumes and publishes."""

from functools import partial

import numpy as np
from scipy.ndimage import label

from u2seg import MaskSet
from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS, LabelGenerator

LEAST_AREA = 0.01
"""Share of the photo; noise is thousands of smaller bright regions, too many to hold a mask of each."""


@PSEUDO_LABEL_GENERATORS.register()
class BrightnessGenerator(LabelGenerator):
    """Bright regions are things, of a class by their size; what is darker is stuff, of a class by its brightness."""

    def settings(self):
        return {"BRIGHTNESS.LEVEL": self.cfg.BRIGHTNESS.LEVEL}

    def labeller(self):
        return partial(segment, level=self.cfg.BRIGHTNESS.LEVEL, space=self.recipe.space)


def segment(image, level, space):
    """Things, their classes int64 (N,) and stuff uint8 (H, W) of ``image`` uint8 (H, W, 3)."""
    brightness = image.mean(axis=2) / 255
    regions, _ = label(brightness > level)
    shares = np.bincount(regions.ravel())[1:] / regions.size
    large = np.flatnonzero(shares >= LEAST_AREA)
    masks, shares = regions == large[:, None, None] + 1, shares[large]
    clusters = np.minimum((shares * space.num_things).astype(np.int64), space.num_things - 1)
    stuff = np.minimum(brightness / level * space.num_stuff, space.num_stuff - 1).astype(np.uint8)
    return MaskSet(masks, np.ones(len(masks), np.float32)), clusters, stuff
