"""Config keys of CAUSE."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_cause_config(cfg: CfgNode) -> None:
    """Add the tree ``STEGO.CAUSE``; again, it does nothing."""
    if "CAUSE" in cfg.STEGO:
        return
    node, stego = type(cfg), cfg.STEGO
    # CAUSE (META_ARCHITECTURE "CAUSE").
    stego.CAUSE = cause = node()
    # Concepts of the clusterbook.
    cause.NUM_CONCEPTS = 2048
    # Steps and learning rate that it is learnt with.
    cause.BOOK_STEPS = 150
    cause.BOOK_LR = 1e-3
    # Concepts closer than this (cosine) are positives, those further than the other negatives.
    cause.POSITIVE = 0.3
    cause.NEGATIVE = 0.1
    # Temperature of the contrast.
    cause.TEMPERATURE = 0.07
    # Momentum of the head that makes the targets.
    cause.MOMENTUM = 0.99
    # Patches of a crop that are contrasted with all of the batch.
    cause.ANCHORS = 32
    # Codes of each concept that the bank keeps from earlier batches.
    cause.BANK = 8
    # Channels that codes are projected to before they are contrasted.
    cause.PROJECTION = 512
