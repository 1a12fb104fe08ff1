"""The keys of training, evaluation and learned stuff, which extend the groups of a Detectron2 config.

Class counts are not here: a config that sets ``MODEL.ROI_HEADS.NUM_CLASSES`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` to
0, as ``configs/Base-U2Seg.yaml`` does, takes them from the training set's ``panoptic.json``, or from the checkpoint.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_training_keys(cfg: CfgNode) -> None:
    """What the trainer, the model, the mapper and the loader read beside Detectron2's own keys."""
    node = type(cfg)
    # Entry of u2seg.engine.trainer.TRAINERS: what tools/train_net.py trains and tests with.
    cfg.SOLVER.TRAINER_NAME = "Trainer"
    # Entry of u2seg.data.mapper.DATASET_MAPPERS.
    cfg.INPUT.DATASET_MAPPER_NAME = "U2SegDatasetMapper"

    # Where things to learn come from: "panoptic", the label, which shows each pixel of one thing at most; or
    # "instances", whole masks of instances.json, painted or not. Stuff always comes from the label.
    cfg.INPUT.THINGS = "panoptic"
    # Which masks of instances.json: with this score or more, the surest so many of a photo (0 is all), and none of
    # which more than this share lies inside one surer one (1 keeps nested masks).
    cfg.INPUT.INSTANCES = node()
    cfg.INPUT.INSTANCES.MIN_SCORE = 0.0
    cfg.INPUT.INSTANCES.MAX_MASKS = 0
    cfg.INPUT.INSTANCES.MAX_INSIDE = 1.0

    # Large-scale jitter (Simple Copy-Paste, CVPR 2021) in place of MIN_SIZE_TRAIN: the photo is resized to fit
    # SIZE x SIZE pixels times a random factor, then cropped or padded to SIZE x SIZE.
    cfg.INPUT.LARGE_SCALE_JITTER = node()
    cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    cfg.INPUT.LARGE_SCALE_JITTER.MIN_SCALE = 0.1
    cfg.INPUT.LARGE_SCALE_JITTER.MAX_SCALE = 2.0
    cfg.INPUT.LARGE_SCALE_JITTER.SIZE = 1024

    # A random subset of the things of another photo of the batch is pasted on, brought to this photo's size times a
    # random factor (CutLER: 0.3 to 1.0).
    cfg.INPUT.COPY_PASTE = node()
    cfg.INPUT.COPY_PASTE.ENABLED = False
    # Share of photos that get something pasted.
    cfg.INPUT.COPY_PASTE.PROBABILITY = 1.0
    cfg.INPUT.COPY_PASTE.MIN_SCALE = 0.3
    cfg.INPUT.COPY_PASTE.MAX_SCALE = 1.0

    # The network of U2SEG.FEATURES as a backbone (MODEL.BACKBONE.NAME build_u2seg_vit_backbone), with the channels and
    # the norm of MODEL.FPN.
    cfg.MODEL.VIT = vit = node()
    # Keep it as it is: it has no gradient, runs in half precision where U2SEG.FEATURES says so, and checkpoints hold
    # its sha256 in its place.
    vit.FROZEN = True
    # Blocks whose features are used, side by side; none is the layer of U2SEG.FEATURES.
    vit.BLOCKS = []
    # Pixels of the image that a patch stands for: 16, or 8 for small images. The input is rescaled to suit.
    vit.STRIDE = 16
    # If not frozen, the learning rate of each block is that of the next one times this.
    vit.LR_DECAY = 0.8

    # Departures from the paper; all off there.
    cfg.MODEL.U2SEG = node()
    # DropLoss (CutLER, section 3.3; there 0.01): no loss at a stage for regions whose predicted box has no IoU with a
    # label above this; photos without labels have the plain loss. 0 is off.
    cfg.MODEL.U2SEG.DROP_LOSS_IOU = 0.0
    # No loss for background regions of which more than this share is unlabelled; 0 is off.
    cfg.MODEL.U2SEG.IGNORE_UNLABELLED = 0.0
    # A detection's score is that of a thing, of whichever cluster, and not that of its cluster; one name a region.
    cfg.MODEL.U2SEG.OBJECT_SCORES = False
    # It is also multiplied by the mean probability inside its mask: well drawn masks come first.
    cfg.MODEL.U2SEG.MASK_SCORES = False
    # In inference, it is also multiplied by what the semantic head says of its mask: the mean probability of "a thing".
    cfg.MODEL.U2SEG.THING_SCORES = False
    # Output of the backbone, such as "vit" of build_u2seg_vit_backbone: a linear head of its mean inside a mask names
    # things, in place of the box heads. "" is none.
    cfg.MODEL.U2SEG.NAMES_FROM = ""
    # Batches of training photos that this head is fitted to once more after the last step; 0 leaves it as it is.
    cfg.MODEL.U2SEG.NAMES_FIT_ITER = 500
    # Output of the backbone that the semantic head also has scores from, linear in each cell; "" is none.
    cfg.MODEL.U2SEG.STUFF_FROM = ""
    # In inference, U2SEG.REFINE brings masks, and stuff in the panoptic label, to the photo's edges, as in labels;
    # masks that it would bring below U2SEG.MASKS.MIN_REFINED_IOU stay.
    cfg.MODEL.U2SEG.REFINE = False
    # With REFINE: every pixel without a thing gets stuff, of the classes on at least this share of the photo, as in
    # labels of "kmeans" (0.1). 0: the likeliest class, and void where that is "a thing" and none was found.
    cfg.MODEL.U2SEG.MIN_STUFF_SHARE = 0.0
    # The semantic loss is of one pixel in each square of this many pixels a side, at most the head's COMMON_STRIDE: on
    # a CPU a step of a small model takes a quarter less time with 4 than with 1.
    cfg.MODEL.U2SEG.SEM_SEG_LOSS_STRIDE = 1


def add_evaluation_keys(cfg: CfgNode) -> None:
    """How predictions are matched to human classes and scored."""
    node = type(cfg)
    # Entry of u2seg.evaluation.evaluator.U2SEG_EVALUATORS.
    cfg.TEST.EVALUATOR = "HungarianPanopticEvaluator"
    cfg.TEST.MATCHING = matching = node()
    # How clusters are matched to classes, see u2seg.evaluation.matching; all in one pass.
    matching.POLICIES = ("many_to_one", "one_to_one", "one_to_one_then_majority", "u2seg_paper")
    # Human classes as they are ("category") or joined ("supercategory"); the paper scores COCO's 80 + 15.
    matching.THINGS = "category"
    matching.STUFF = "supercategory"
    # Fit nothing on the set that is scored: a file (matching.json of an earlier run), or a dataset that stands before
    # this one in DATASETS.TEST. "" fits on the set itself, which flatters.
    matching.FIT_ON = ""
    # 2 or more: also the figures of matchings fitted on the other folds of the same set.
    matching.FOLDS = 0
    # Runs of the chance control; 0 is none.
    matching.SEEDS = 3
    # When a prediction votes for a class under u2seg_paper: IoU with a human box, its score, IoU of stuff masks.
    matching.BOX_IOU = 0.7
    matching.SCORE = 0.6
    matching.STUFF_IOU = 0.15


def add_stego_keys(cfg: CfgNode) -> None:
    """Learned stuff segmenters: the tree ``STEGO``, with STEGO's constants for ViT-S on COCO-Stuff-27.

    The constants are those of the official configuration of STEGO (ICLR 2022), which go with the mean kept.

    Elsewhere: ``U2SEG.FEATURES`` names the frozen network (for crops in training), ``U2SEG.STUFF.FEATURES`` the one for
    whole photos in evaluation, ``U2SEG.NUM_STUFF`` the number of classes, ``SOLVER`` batch, steps and learning rate.
    """
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
    # its shifts were chosen with) or "row" (nothing is added back).
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
