"""``U2SEG.GENERATOR BrightnessGenerator``: a whole label generator on u2seg's own run, files and merge stage."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import label

from u2seg.images import find_photos
from u2seg.pseudo.intermediate import MaskRecord, write_masks, write_stuff
from u2seg.pseudo.ledger import STAGES
from u2seg.pseudo.pipeline import PSEUDO_LABEL_GENERATORS
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.run import LabelRun
from u2seg.pseudo.worker import Job, Outcome, read_photos
from u2seg.structures import MaskSet

LEAST_AREA = 0.01
"""Share of the photo; noise is thousands of smaller bright regions, too many to hold a mask of each."""


@dataclass(frozen=True, kw_only=True)
class BrightnessJob(Job):
    """What a worker is sent: u2seg's photos, paths and recipe, and our own setting."""

    level: float


@PSEUDO_LABEL_GENERATORS.register()
class BrightnessGenerator:
    """Bright regions are things, of a class by their size; what is darker is stuff, of a class by its brightness."""

    def __init__(self, cfg, photos, output, executor=None):
        self.recipe, self.level = Recipe.from_config(cfg), cfg.BRIGHTNESS.LEVEL
        self.photos, self.output, self.executor = photos, Path(output), executor

    @classmethod
    def find_photos(cls, cfg, images, root):
        return find_photos(images, root)

    def run(self, stages=STAGES, redo=None):
        """Label and merge; nothing is fitted, and classes need no clusters."""
        made_of = {"BRIGHTNESS.LEVEL": self.level, "U2SEG.INPUT.MAX_PIXELS": self.recipe.max_pixels}
        made_of |= {"U2SEG.NUM_THINGS": self.recipe.space.num_things, "U2SEG.NUM_STUFF": self.recipe.space.num_stuff}
        merge = {"U2SEG.MERGE": vars(self.recipe.merge)}
        depends = {"fit": {}, "masks": made_of, "stuff": made_of, "cluster": {}, "merge": merge}
        with LabelRun(self.output, self.photos, self.recipe, depends, redo, self.executor) as run:
            steps = {
                "fit": lambda: False,
                "label": lambda: self._label(run),
                "cluster": lambda: False,
                "merge": lambda: run.merge(repair=lambda: self._label(run)),
            }
            for stage in (stage for stage in STAGES if stage in stages):
                run.perform(stage, steps[stage])
            return run.finish([], {"generator": type(self).__name__}) if "merge" in stages else None

    def _label(self, run):
        return run.label(label_by_brightness, BrightnessJob, level=self.level)


def label_by_brightness(job: BrightnessJob) -> Outcome:
    """Write masks and stuff of each photo; a photo that fails is noted, and the others go on."""
    outcome = Outcome()

    def work(photos):
        for photo, pixels in read_photos(photos, outcome, job.recipe):
            record, stuff = segment(pixels.image, pixels.size, job.level, job.recipe.space)
            write_masks(job.masks.path(job.keys[photo.id]), record)
            write_stuff(job.stuff.path(job.keys[photo.id]), stuff)

    for photo in job.photos:
        outcome.attempt([photo], work)
    return outcome


def segment(image, size, level, space):
    """A `MaskRecord` with its ``clusters`` and the stuff map uint8 (H, W) of ``image`` uint8 (H, W, 3)."""
    brightness = image.mean(axis=2) / 255
    regions, _ = label(brightness > level)
    shares = np.bincount(regions.ravel())[1:] / regions.size
    large = np.flatnonzero(shares >= LEAST_AREA)
    masks, shares = regions == large[:, None, None] + 1, shares[large]
    clusters = np.minimum((shares * space.num_things).astype(np.int64), space.num_things - 1)
    stuff = np.minimum(brightness / level * space.num_stuff, space.num_stuff - 1).astype(np.uint8)
    things = MaskSet(masks, np.ones(len(masks), np.float32))
    return MaskRecord(things, None, size, {"clusters": clusters}), stuff
