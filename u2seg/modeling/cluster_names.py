"""Which cluster a thing belongs to, told as labels are told it: by the crop that a frozen network sees of it.

The clusters of labels are those of crops (U2Seg, section 3.1). Hundreds of them, of a few examples each, are learnt
slowly by heads that see a thing among others, and need not be learnt where the network and the centres are at hand.

Shapes: ``H, W`` pixels of a photo; ``N`` detections of it; ``K`` thing classes; ``E`` channels of a crop's vector.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from u2seg.errors import UsageError
from u2seg.plugins.api import FeatureExtractor
from u2seg.pseudo.clusters import nearest_centre
from u2seg.pseudo.embeddings import crop_embeddings
from u2seg.pseudo.ledger import FITTED_FILES
from u2seg.pseudo.parts import Part
from u2seg.pseudo.products import read_earlier, refuse_other_features

logger = logging.getLogger(__name__)

KEY = "MODEL.U2SEG.NAMES_BY_CROP"
CENTRES = "cluster_centers"
"""Entry of a clusterer's state that names can be told by: `u2seg.pseudo.clusters.KMeans` has it."""
EMBEDDED_BY = ("timm_model", "weights_sha256", "embed", "embed_layer")
"""What the vector of a crop depends on, of what the built-in extractor says of itself."""


class ClusterNames(nn.Module):
    """The centres of the clusters of a training set, and the network whose vectors they were learnt on.

    Centres are a part of the model's state, the network is not. Without centres, all of them 0, nothing is renamed.
    """

    def __init__(self, extractor: FeatureExtractor, settings: Mapping[str, Any], crop_size: int, count: int) -> None:
        """Make them, without centres.

        Args:
            extractor: makes the vectors, as of labels.
            settings: of the extractor, compared with those of labels where it says nothing of its weights.
            crop_size: pixels per side of a crop, as of labels.
            count: K.
        """
        super().__init__()
        self._extractor = (extractor,)  # in a tuple, torch does not take a network for a part of the model
        self.crop_size = crop_size
        told = getattr(extractor, "info", {})
        self.learnt_on = {
            "U2SEG.FEATURES": _of_vectors(told if "weights_sha256" in told else settings),
            "U2SEG.CLUSTERS.EMBEDDING": "crop",
            "U2SEG.CLUSTERS.CROP_SIZE": crop_size,
        }
        pixel = np.zeros((1, 1, 3), np.uint8)
        self.centres: torch.Tensor
        channels = self._vectors(pixel, np.ones((1, 1, 1), bool)).shape[1]
        self.register_buffer("centres", torch.zeros(count, channels))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ClusterNames:
        """Names by ``U2SEG.FEATURES`` and ``U2SEG.CLUSTERS.CROP_SIZE``.

        Raises:
            UsageError: the network or its weights can't be had.
        """
        part = Part.from_config("feature extractor", cfg.U2SEG.FEATURES)
        extractor = part.build(device=cfg.MODEL.DEVICE, random_state=cfg.U2SEG.SEED)
        return cls(extractor, part.settings(), cfg.U2SEG.CLUSTERS.CROP_SIZE, cfg.MODEL.ROI_HEADS.NUM_CLASSES)

    def _vectors(self, photo: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return crop_embeddings(self._extractor[0], photo, masks, self.crop_size)

    def rename(self, photo: np.ndarray, detections: Instances, min_score: float) -> None:
        """Set ``pred_classes`` of ``detections`` with a score of ``min_score`` or more, in place.

        Args:
            photo: uint8 (H, W, 3) RGB.
            detections: ``scores`` float (N,), ``pred_masks`` bool (N, H, W); an empty mask keeps its class.
            min_score: in [0, 1]; a crop costs a pass of the network, so it is for what is painted.
        """
        masks, classes = detections.pred_masks, detections.pred_classes
        chosen = (detections.scores >= min_score) & masks.flatten(1).any(dim=1)
        if chosen.any() and self.centres.any():
            vectors = self._vectors(photo, masks[chosen].cpu().numpy())
            names, _ = nearest_centre(vectors, self.centres.cpu().numpy())
            classes[chosen] = torch.from_numpy(names).to(classes)

    def load_labels(self, directory: Path) -> bool:
        """Take the centres of the labels in ``directory``; whether there are some for vectors of crops.

        Raises:
            UsageError: they can't be read, or are of another network's vectors or of another number.
        """
        path = directory / FITTED_FILES["cluster"]
        if not path.is_file():
            return False
        subject = f"{KEY}: {path}"
        state, before = read_earlier(subject, path)
        if CENTRES not in state or before["U2SEG.CLUSTERS.EMBEDDING"] != "crop":
            return False
        before["U2SEG.FEATURES"] = _of_vectors(before["U2SEG.FEATURES"])
        refuse_other_features(subject, before, self.learnt_on)
        centres = torch.from_numpy(state[CENTRES])
        if centres.shape != self.centres.shape:
            raise UsageError(f"{subject} has {len(centres)} clusters, the model {len(self.centres)} thing classes")
        self.centres.copy_(centres)
        return True


def _of_vectors(features: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of features, those that the vector of a crop depends on."""
    return {key: features[key] for key in EMBEDDED_BY} if "weights_sha256" in features else dict(features)


def take_centres(model: nn.Module, directories: Iterable[Path]) -> None:
    """Give the `ClusterNames` of ``model``, if it has some, the centres of the first of the labels that has any.

    Raises:
        UsageError: as `ClusterNames.load_labels`.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    names = getattr(model, "names", None)
    if names is None or any(names.load_labels(directory) for directory in directories):
        return
    if not names.centres.any():
        logger.warning(
            "%s: none of DATASETS.TRAIN has clusters of crops (%s), so things are named by the box heads",
            *(KEY, FITTED_FILES["cluster"]),
        )
