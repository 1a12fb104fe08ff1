"""Which cluster a thing belongs to, from what a frozen backbone sees inside its mask.

The box heads learn clusters beside places, from a pyramid that is trained from nothing. Clusters of few examples are
learnt sooner from the features that clusters were made of.

Shapes: ``B`` images; ``R`` regions of all images; ``D`` channels; ``h, w`` the backbone's grid; ``K`` thing classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

from u2seg.modeling.sem_seg_head import Features, LinearScores, normalised

logger = logging.getLogger(__name__)

CELLS = 14
"""Cells per side of a region."""
RIDGE = 0.01
"""Weight of the squared weights in a fit; of 0.0001 to 0.01, best on labels that were held out."""
MAX_ITER = 150
"""Of a fit."""


class NameHead(LinearScores):
    """Scores of clusters: linear in the mean of what the cells inside a mask hold."""

    def __init__(self, in_feature: str, shape: ShapeSpec, num_classes: int) -> None:
        """Make the head for the backbone's output ``in_feature`` of ``shape``, and ``num_classes`` (K)."""
        super().__init__(in_feature, shape, num_classes)
        self.pooler = ROIPooler(CELLS, scales=[1 / shape.stride], sampling_ratio=1, pooler_type="ROIAlignV2")

    def vectors(self, features: Features, boxes: list[Boxes], masks: torch.Tensor) -> torch.Tensor:
        """Vectors float32 (R, D) of mean 0 and variance 1, that scores are linear in.

        Args:
            features: the backbone's outputs, float (B, D, h, w) the one that counts.
            boxes: of each image.
            masks: (R, s, s) inside the boxes, bool or probabilities, of any side s. Where one is empty, its box counts.
        """
        regions = self.pooler([self.cells(features).movedim(-1, 1)], boxes)  # (R, D, CELLS, CELLS)
        weights = F.adaptive_avg_pool2d(masks.to(regions.dtype), CELLS)[:, None] + 1e-6
        return normalised((regions * weights).sum((2, 3)) / weights.sum((2, 3)))

    def examples(self, features: Features, labels: list[Instances]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors float32 (R, D) and classes int64 (R,) of all ``labels`` of each image, inside their own masks."""
        boxes = [things.gt_boxes for things in labels]
        masks = cat([things.gt_masks.crop_and_resize(things.gt_boxes.tensor, CELLS) for things in labels])
        return self.vectors(features, boxes, masks), cat([things.gt_classes for things in labels])

    def losses(self, features: Features, labels: list[Instances]) -> dict[str, torch.Tensor]:
        """Cross entropy of the names of ``labels``; 0 without any. See `examples`."""
        vectors, classes = self.examples(features, labels)
        scores = self.scores(vectors)
        return {"loss_name": F.cross_entropy(scores, classes) if len(classes) else scores.sum() * 0.0}

    @torch.enable_grad()
    def fit(self, vectors: torch.Tensor, classes: torch.Tensor) -> float:
        """Fit the scores to examples by L-BFGS: the least mean cross entropy and `RIDGE`.

        Args:
            vectors: float32 (R, D).
            classes: int64 (R,).

        Returns:
            The share of the examples that then get their own class.
        """
        if not len(classes):
            return 0.0
        vectors = vectors.detach()
        optimizer = torch.optim.LBFGS(self.scores.parameters(), max_iter=MAX_ITER, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(self.scores(vectors), classes) + RIDGE / 2 * self.scores.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)  # type: ignore[arg-type]  # L-BFGS wants the tensor
        self.zero_grad()
        return float((self.scores(vectors).argmax(dim=1) == classes).float().mean())

    def rename(self, features: Features, detections: list[Instances]) -> None:
        """Set ``pred_classes`` of each image's ``detections``, whose ``pred_masks`` are float (R of it, 1, s, s)."""
        masks = cat([regions.pred_masks[:, 0] for regions in detections])
        scores = self.scores(self.vectors(features, [regions.pred_boxes for regions in detections], masks))
        for regions, of_image in zip(detections, scores.split([len(regions) for regions in detections]), strict=True):
            regions.pred_classes = of_image.argmax(dim=1)


@torch.no_grad()
def fit_names(model: Any, batches: Iterable[list[dict[str, Any]]]) -> None:
    """Fit ``roi_heads.name_head`` of ``model``, and nothing else, to the labelled things in ``batches``.

    A few things a batch, in each step another few of hundreds of clusters, teach a linear head slowly; all of them
    together do in seconds. With several processes each has its own batches, and all fit the head to the things of all.
    A model without such a head, as of other ROI heads than ours, stays as it is.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    head: Any = getattr(getattr(model, "roi_heads", None), "name_head", None)
    if head is None:
        logger.warning("MODEL.U2SEG.NAMES_FROM: these ROI heads have no head for names, so there is nothing to fit")
        return
    was_training, examples = model.training, []
    model.eval()
    for batch in batches:
        features = model.backbone(model.preprocess_image(batch).tensor)
        of_batch = head.examples(features, [sample["instances"].to(model.device) for sample in batch])
        examples.append([part.cpu() for part in of_batch])
    model.train(was_training)
    everyone = comm.all_gather(tuple(map(torch.cat, zip(*examples, strict=True))))
    vectors, classes = map(torch.cat, zip(*everyone, strict=True))
    right = head.fit(vectors.to(model.device), classes.to(model.device))
    text = "names: fitted to %d things of the training set, %.1f %% of which get the name that they have"
    logger.info(text, len(classes), 100 * right)
