"""``MODEL.META_ARCHITECTURE TrustingPanopticFPN``."""

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from u2seg.modeling.panoptic_fpn import U2SegPanopticFPN


@META_ARCH_REGISTRY.register()
class TrustingPanopticFPN(U2SegPanopticFPN):
    """u2seg's model; batches whose labels leave much void count less."""

    @configurable
    def __init__(self, *, power: float, **arguments) -> None:
        super().__init__(**arguments)
        self.power = power

    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), "power": cfg.TRUST.POWER}

    def forward(self, batched_inputs):
        """Losses in training, predictions otherwise."""
        result = super().forward(batched_inputs)
        if not self.training:
            return result
        void = self.sem_seg_head.ignore_value
        shares = [(sample["sem_seg"] != void).float().mean().item() for sample in batched_inputs]
        trust = (sum(shares) / len(shares)) ** self.power
        return {name: loss * trust for name, loss in result.items()}
