"""The last fit of the head that names things.

Shapes: ``R`` things; ``D`` channels.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from u2seg.runtime import track

logger = logging.getLogger(__name__)


class FitNames(HookBase):
    """Fits the head of names to things of the training set before the last checkpoint, as `PreciseBN` does statistics.

    A few things a batch, in each step another few of hundreds of clusters, teach a linear head slowly; all of them
    together do in seconds.
    """

    def __init__(self, loader: Iterable[list[dict[str, Any]]], num_batches: int) -> None:
        """Take ``num_batches`` of ``loader`` when the time comes."""
        self.loader, self.num_batches = loader, num_batches

    def after_step(self) -> None:
        """Fit, after the last step."""
        if self.trainer.iter + 1 == self.trainer.max_iter:
            batches = itertools.islice(self.loader, self.num_batches)
            fit_names(self.trainer.model, track(batches, "names", self.num_batches, "step"))


@torch.no_grad()
def fit_names(model: Any, batches: Iterable[list[dict[str, Any]]]) -> None:
    """Fit ``roi_heads.name_head`` of ``model``, and nothing else, to the labelled things in ``batches``.

    With several processes each has its own batches, and all fit the head to the things of all. A model without such a
    head, as of other ROI heads than ours, stays as it is.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    heads: Any = getattr(model, "roi_heads", None)
    was_training = model.training
    if getattr(heads, "name_head", None) is None:
        logger.warning("MODEL.U2SEG.NAMES_FROM: these ROI heads have no head for names, so there is nothing to fit")
        return
    model.eval()
    vectors, classes = [], []
    for batch in batches:
        features = model.backbone(model.preprocess_image(batch).tensor)[heads.names_from]
        of_batch = heads.name_head.examples(features, [sample["instances"].to(model.device) for sample in batch])
        vectors.append(of_batch[0].cpu())
        classes.append(of_batch[1].cpu())
    model.train(was_training)
    everyone = comm.all_gather((torch.cat(vectors), torch.cat(classes)))
    examples = torch.cat([part for part, _ in everyone]), torch.cat([part for _, part in everyone])
    right = heads.name_head.fit(*(part.to(model.device) for part in examples))
    text = "names: fitted to %d things of the training set, %.1f %% of which get the name that they have"
    logger.info(text, len(examples[1]), 100 * right)
