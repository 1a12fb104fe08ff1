"""Config keys of learned stuff segmenters."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_stego_config(cfg: CfgNode) -> None:
    """Add the tree ``STEGO``, with STEGO's constants for ViT-S on COCO-Stuff-27; again, it does nothing.

    The constants are those of the official configuration of STEGO (ICLR 2022), which go with the mean kept.

    Elsewhere: ``U2SEG.FEATURES`` names the frozen network (for crops in training), ``U2SEG.STUFF.FEATURES`` the one for
    whole photos in evaluation, ``U2SEG.NUM_STUFF`` the number of classes, ``SOLVER`` batch, steps and learning rate.
    """
    if "STEGO" in cfg:
        return
    node = type(cfg)
    cfg.STEGO = stego = node()

    # Photos without labels: a folder, a 'pattern*', a .txt list or a COCO .json.
    stego.IMAGES = ""
    # Where what the frozen network says of the crops is kept; "" is OUTPUT_DIR/features.
    stego.CACHE = ""
    # Keep all features (2 D h w bytes a crop) and never run the network again, or only their means.
    stego.CACHE_FEATURES = True
    # Side of a crop over side of the photo.
    stego.CROP_RATIO = 0.5
    # Photos whose crops have a shorter side, pixels, are left out.
    stego.MIN_CROP = 64
    # Neighbours of a crop that one is drawn from in each step.
    stego.NUM_NEIGHBOURS = 7
    # "exact", "faiss", or "auto": faiss where it is installed.
    stego.NEIGHBOUR_SEARCH = "auto"

    # Channels of a code (paper: 70 for ViT-S, 90 for ViT-B).
    stego.CODE_DIM = 70
    # Share of channels that training leaves out.
    stego.DROPOUT = 0.1
    # Learning rate of the class centres; SOLVER.BASE_LR is the head's.
    stego.PROBE_LR = 5e-3
    # At the end, fit the class centres anew by spherical k-means on the codes of the crops.
    stego.REFIT_PROBE = True
    # Before that, divide each principal component of the codes by this power of its standard deviation: 0 leaves the
    # codes as they are, 1 makes all components count alike. What it does is put into the head's last layer.
    stego.REFIT_WHITEN = 1.0

    # Sampled points per side of a crop.
    stego.POINTS = 11
    # Other images of the batch that each is compared with.
    stego.NUM_RANDOM = 5
    # "row_keep_mean" (each point's mean is taken away, the batch's mean is added back: what the official code does and
    # its shifts were found with), "row" (nothing is added back) or "none".
    stego.CENTRING = "row_keep_mean"
    stego.WEIGHTS = node()
    stego.WEIGHTS.SELF = 0.67
    stego.WEIGHTS.KNN = 0.25
    stego.WEIGHTS.RANDOM = 0.63
    # b of each term: features less alike than this push codes apart.
    stego.SHIFTS = node()
    stego.SHIFTS.SELF = 0.08
    stego.SHIFTS.KNN = 0.02
    stego.SHIFTS.RANDOM = 0.66
    # Take the shifts from the features instead, without labels (docs/stuff.md).
    stego.CHOOSE_SHIFTS = False
    # Steps between plots of the similarities; 0 is never.
    stego.PLOT_PERIOD = 500

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
