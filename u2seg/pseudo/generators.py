"""Whole label generators: their registry, and the base class that runs, resumes and publishes for them.

Shapes: ``H, W`` pixels at which a photo is labelled; ``N`` things; ``K`` thing and ``S`` stuff classes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry

from u2seg.config import plain
from u2seg.errors import DataError, UsageError
from u2seg.images import Photo, PhotoSet, find_photos
from u2seg.pseudo.intermediate import DamagedFileError, MaskRecord, write_masks, write_stuff
from u2seg.pseudo.ledger import STAGES
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.record import Summary
from u2seg.pseudo.run import LabelRun
from u2seg.pseudo.worker import Job, Outcome, read_photos
from u2seg.structures import MaskSet

logger = logging.getLogger(__name__)

MOST_REPAIRS = 20
"""Times that damaged intermediate files are made again before the disk is blamed."""
PSEUDO_LABEL_GENERATORS = Registry("PSEUDO_LABEL_GENERATORS")
"""Subclasses of `LabelGenerator`, by the name in ``U2SEG.GENERATOR``."""


Labeller = Callable[[np.ndarray], tuple[MaskSet, np.ndarray, np.ndarray]]
"""From a photo uint8 (H, W, 3) RGB to its things, masks bool (N, H, W); their classes int64 (N,) in [0, K); and its
stuff uint8 (H, W) in [0, S), 255 for none. It travels to worker processes, and gives the same for the same photo."""


def label_each(labeller: Labeller, job: Job) -> Outcome:
    """Write the things and stuff of each photo; one that fails is noted, and the others go on."""

    def work(outcome: Outcome, group: Sequence[Photo]) -> None:
        for photo, pixels in read_photos(group, outcome, job.recipe):
            with outcome.timed("label"):
                things, clusters, stuff = labeller(pixels.image)
            key, record = job.keys[photo.id], MaskRecord(things, None, pixels.size, {"clusters": clusters})
            write_masks(job.masks.path(key), record)
            write_stuff(job.stuff.path(key), stuff)

    return job.work_through(work)


class LabelGenerator:
    """From photos to a dataset, in a run that can be resumed. A plugin's own needs `labeller` and `settings`, no more.

    ``self.cfg`` is the config, and ``self.recipe`` its ``U2SEG`` tree; ``recipe.space`` has K and S.
    """

    caveats: Sequence[str] = ()
    """What must be said against calling the labels unsupervised."""

    def __init__(self, cfg: CfgNode, photos: PhotoSet, output: str | Path) -> None:
        """Check everything that can be checked before work begins.

        Args:
            cfg: holds the ``U2SEG`` tree.
            photos: what to label, from `find_photos`.
            output: directory of the dataset.

        Raises:
            U2SegError: a setting can't be taken.
        """
        self.cfg, self.recipe = cfg, Recipe.from_config(cfg)
        self.photos, self.output = photos, Path(output)

    @classmethod
    def find_photos(cls, cfg: CfgNode, images: str | None, root: str | None) -> PhotoSet:
        """The photos to label, from what ``--images`` and ``--image-root`` say.

        Raises:
            UsageError: there are none.
        """
        if not images:
            raise UsageError("--images is missing; see --help")
        return find_photos(images, root)

    def labeller(self) -> Labeller:
        """What labels the photos."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """By key, all that it depends on beside ``U2SEG.INPUT.MAX_PIXELS``, K and S; values as JSON has them."""
        raise NotImplementedError

    def run(self, stages: Sequence[str] = STAGES, redo: str | None = None) -> Summary | None:
        """Run ``stages`` and return the summary of the dataset, or None where ``merge`` is not among them.

        Args:
            stages: names out of `STAGES`.
            redo: make this again, and what is made from it.

        Raises:
            UsageError: the directory was made with other settings, or a stage lacks the one before it.
            DataError: a stage failed on every photo or on too many, or files are damaged again and again.
        """
        with LabelRun(self.output, self.photos, self.recipe, self._dependencies(), redo) as run:
            for _ in range(MOST_REPAIRS):
                try:
                    return self._perform(run, stages)
                except DamagedFileError as error:
                    logger.warning("%s; it is made again", error)
                    run.drop([error])
                    stages = [*stages, "label"] if error.product in ("masks", "stuff") else stages
        raise DataError(f"intermediate files in {self.output} are damaged again and again; check the disk")

    def _perform(self, run: LabelRun, stages: Collection[str]) -> Summary | None:
        steps = {"fit": self._fit, "label": self._label, "cluster": self._cluster, "merge": LabelRun.merge}
        for stage in STAGES:
            if stage in stages:
                run.perform(stage, steps[stage])
        return run.finish(self.caveats, self._record(run)) if "merge" in stages else None

    def _fit(self, run: LabelRun) -> bool:
        """Do what the stage ``fit`` lacks; whether that was anything. As `_label` and `_cluster`."""
        return False

    def _label(self, run: LabelRun) -> bool:
        return run.label(partial(label_each, self.labeller()))

    def _cluster(self, run: LabelRun) -> bool:
        return False

    def _dependencies(self) -> dict[str, dict[str, Any]]:
        """For each product, the settings that it depends on beside those of the products it is made from."""
        space = self.recipe.space
        common = {"U2SEG.INPUT.MAX_PIXELS": self.recipe.max_pixels, "U2SEG.NUM_THINGS": space.num_things}
        made_by = {**common, "U2SEG.NUM_STUFF": space.num_stuff, **self.settings()}
        return {
            "fit": {},
            "masks": made_by,
            "stuff": made_by,
            "cluster": {},
            "merge": self.recipe.merge.settings(),
        }

    def _record(self, run: LabelRun) -> Mapping[str, Any]:
        """What the generator says of itself in ``run.json``."""
        config = {"U2SEG": plain(self.cfg.U2SEG)}
        return {"generator": type(self).__name__, "config": config, "seed": self.recipe.seed}


def generator_table() -> list[dict[str, str]]:
    """Rows as those of `u2seg.plugins.registry.Plugins.table`, for ``--list-plugins``: the registered generators."""
    return [
        {
            "kind": "label generator",
            "name": name,
            "distribution": "u2seg (built in)" if generator.__module__.startswith("u2seg.") else generator.__module__,
            "arguments": "U2SEG.GENERATOR",
            "help": (inspect.getdoc(generator) or "").split("\n")[0],
        }
        for name, generator in sorted(PSEUDO_LABEL_GENERATORS)
    ]
