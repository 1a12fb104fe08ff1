"""``INPUT.DATASET_MAPPER_NAME GreyMapper``."""

import numpy as np
from detectron2.config import configurable

from u2seg.data.mapper import DATASET_MAPPERS, U2SegDatasetMapper


@DATASET_MAPPERS.register()
class GreyMapper(U2SegDatasetMapper):
    """u2seg's mapper; some photos lose their colours in training."""

    @configurable
    def __init__(self, *, grey_probability: float, **arguments) -> None:
        super().__init__(**arguments)
        self.grey_probability = grey_probability

    @classmethod
    def from_config(cls, cfg, is_train=True):
        probability = cfg.GREY.PROBABILITY if is_train else 0.0
        return {**super().from_config(cfg, is_train), "grey_probability": probability}

    def __call__(self, dataset_dict):
        sample = super().__call__(dataset_dict)
        if np.random.random() < self.grey_probability:  # seeded in each loader process, as Detectron2's transforms
            grey = sample["image"].float().mean(dim=0).to(sample["image"].dtype)
            sample["image"] = grey.expand_as(sample["image"]).clone()
        return sample
