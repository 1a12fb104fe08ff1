"""CAUSE-MLP (Kim, Lee, Ro: arXiv 2310.07379) for u2seg: its stuff segmenter, its config keys and its model.

u2seg calls these hooks to list names, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from u2seg import hookimpl

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


@hookimpl
def u2seg_stuff_segmenters() -> dict[str, Any]:
    """The segmenter that uses what training learnt: ``U2SEG.STUFF.NAME cause``."""
    from u2seg_cause.segmenter import CauseStuff

    return {"cause": CauseStuff}


@hookimpl
def u2seg_add_config(cfg: CfgNode) -> None:
    """The tree ``CAUSE``, in configs of training alone; the rest is in the tree ``STEGO``."""
    if "STEGO" not in cfg or "CAUSE" in cfg:
        return
    cfg.CAUSE = cause = type(cfg)()
    # Concepts of the clusterbook.
    cause.NUM_CONCEPTS = 2048
    # Steps and learning rate that it is learnt with.
    cause.BOOK_STEPS = 150
    cause.BOOK_LR = 1e-3
    # Patches whose concepts are closer than this (cosine) are positives, those further than the other negatives.
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


@hookimpl
def u2seg_register_detectron2() -> None:
    """Put the model in Detectron2's registry, for ``MODEL.META_ARCHITECTURE CAUSE``."""
    import u2seg_cause.model  # noqa: F401
