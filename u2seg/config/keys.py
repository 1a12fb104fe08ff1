"""Every key that this project adds to a Detectron2 config, with its default, its meaning and its bounds.

Parts of the recipe are named as ``{NAME: maskcut, ARGS: {maskcut: {tau: 0.15}}}``: arguments stand under their part's
name, so another NAME never inherits them, and an absent entry means the factory's own defaults. Keys under ARGS are
free here and checked against the factory's signature before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from u2seg.errors import UsageError, lookup

Range = tuple[float, float | None]
"""Least and most that a number may be; None is no limit."""

SHARE: Range = (0, 1)
BOUNDS: dict[str, Range] = {
    "U2SEG.SEED": (0, 2**32 - 1),
    "U2SEG.NUM_THINGS": (1, None),
    "U2SEG.NUM_STUFF": (1, 254),
    "U2SEG.INPUT.MAX_PIXELS": (1024, None),
    "U2SEG.INPUT.MAX_DECODED_PIXELS": (1024, 178_956_970),
    "U2SEG.MASKS.MIN_REFINED_IOU": SHARE,
    "U2SEG.MASKS.CROPS": SHARE,
    "U2SEG.CLUSTERS.MIN_SCORE": SHARE,
    "U2SEG.CLUSTERS.MAX_OVERLAP": SHARE,
    "U2SEG.CLUSTERS.CROP_SIZE": (16, 4096),
    "U2SEG.STUFF.FIT_IMAGES": (1, None),
    "U2SEG.MERGE.MAX_STUFF_OVERLAP": SHARE,
    "U2SEG.MERGE.MIN_AREA": SHARE,
    "U2SEG.MERGE.MIN_VISIBLE": SHARE,
    "U2SEG.MERGE.MIN_SCORE": SHARE,
    "U2SEG.MERGE.MIN_THINGS": (0, None),
    "U2SEG.SELF_TRAINING.SCORE": SHARE,
    "U2SEG.SELF_TRAINING.SCORE_STEP": SHARE,
    "U2SEG.SELF_TRAINING.MAX_IOU": SHARE,
    "U2SEG.EXECUTOR.WORKERS": (0, 4096),
    "U2SEG.EXECUTOR.THREADS": (1, 4096),
    "U2SEG.EXECUTOR.BATCH_SIZE": (1, 4096),
    "U2SEG.EXECUTOR.SHARD_SIZE": (1, None),
    "U2SEG.EXECUTOR.PHOTO_SECONDS": (1, None),
    "U2SEG.EXECUTOR.MAX_FAILURES": SHARE,
    "INPUT.INSTANCES.MIN_SCORE": SHARE,
    "INPUT.INSTANCES.MAX_MASKS": (0, None),
    "INPUT.INSTANCES.MAX_INSIDE": SHARE,
    "MODEL.VIT.LR_DECAY": SHARE,
    "MODEL.U2SEG.MIN_STUFF_SHARE": SHARE,
    "STEGO.CROP_RATIO": (0.01, 1),
    "STEGO.MIN_CROP": (1, None),
    "STEGO.NUM_NEIGHBOURS": (1, None),
    "STEGO.CODE_DIM": (1, None),
    "STEGO.DROPOUT": SHARE,
    "STEGO.POINTS": (1, None),
    "STEGO.NUM_RANDOM": (1, None),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "INPUT.THINGS": ("panoptic", "instances"),
    "U2SEG.CLUSTERS.EMBEDDING": ("crop", "mean"),
    "U2SEG.MERGE.ORDER": ("area", "score"),
    "STEGO.CENTRING": ("row", "row_keep_mean"),
}


def add_u2seg_config(cfg: CfgNode) -> None:
    """Add the keys of this project, with their defaults, to ``cfg``: Detectron2's config or a bare `CfgNode`.

    Keys of training and evaluation come only to a config of Detectron2, whose groups they extend. None of Detectron2's
    own defaults is changed. Called again, it changes nothing.
    """
    if "U2SEG" in cfg:
        return
    if "INPUT" in cfg:
        from u2seg.config.training import add_evaluation_keys, add_stego_keys, add_training_keys

        add_training_keys(cfg)
        add_evaluation_keys(cfg)
        add_stego_keys(cfg)
    _add_label_keys(cfg)


def get_pseudo_cfg() -> CfgNode:
    """A config of the label factory alone, which needs no Detectron2."""
    cfg = CfgNode()
    cfg.VERSION = 2
    add_u2seg_config(cfg)
    return cfg


def _part(node: type[CfgNode], name: str) -> CfgNode:
    part = node()
    part.NAME = name
    part.ARGS = node(new_allowed=True)
    return part


def _add_label_keys(cfg: CfgNode) -> None:
    """The tree ``U2SEG``: how labels are made."""
    node = type(cfg)
    cfg.U2SEG = u2seg = node()

    # Who makes the labels: a name in the registry u2seg.pseudo.generators.PSEUDO_LABEL_GENERATORS. "U2SegGenerator" is
    # the recipe of parts below; "SelfTrainingGenerator" a model that was trained on earlier labels.
    u2seg.GENERATOR = "U2SegGenerator"
    # Seed of clustering, sampling and everything else that is drawn.
    u2seg.SEED = 0
    # K, number of thing clusters (the paper: 300 or 800). At most the number of masks found.
    u2seg.NUM_THINGS = 300
    # S, number of stuff classes (the paper: 27). At most 254.
    u2seg.NUM_STUFF = 27

    u2seg.INPUT = node()
    # Larger photos are labelled at this many pixels and the labels brought back to their size.
    u2seg.INPUT.MAX_PIXELS = 1_000_000
    # Photos that claim to be larger still are left out, undecoded. JPEG and JPEG 2000 of more than 32 times MAX_PIXELS
    # are decoded at a half, a quarter or an eighth of their sides.
    u2seg.INPUT.MAX_DECODED_PIXELS = 178_956_970

    # Frozen features that masks and their embeddings are made of.
    u2seg.FEATURES = _part(node, "vit")
    # Torch device of whatever runs a network: "auto" is a GPU where there is one.
    u2seg.DEVICE = "auto"

    # Things of one image.
    u2seg.MASKS = _part(node, "maskcut")
    # A mask is kept if refinement leaves it this similar (IoU of before and after); 0 keeps all.
    u2seg.MASKS.MIN_REFINED_IOU = 0.5
    # A mask that is less similar stays, unrefined, instead of being dropped.
    u2seg.MASKS.KEEP_ROUGH = False
    # Tell by the features where between the cells of the grid an outline runs; masks on another grid stay as they are.
    u2seg.MASKS.SOFT_EDGES = False

    # Look for masks in the four corners of the photo too, each this share of its sides (0.6); 0 looks at the whole
    # alone. Finds more small things and takes three to four times as long.
    u2seg.MASKS.CROPS = 0.0

    # From grid to pixels, for masks and stuff.
    u2seg.REFINE = _part(node, "densecrf")

    # Pseudo-classes over the whole set.
    u2seg.CLUSTERS = _part(node, "kmeans")
    # Vector of a mask: "crop" (the masked crop's own embedding, as the paper; one more pass of the network for each),
    # or "mean" of the features inside it (costs nothing, and names worse: docs/research/names.md).
    u2seg.CLUSTERS.EMBEDDING = "crop"
    # Masks with a lower score, but for the three best of each photo, get no crop vector and take no part in learning
    # the clusters; they get the cluster whose masks have the most similar mean features.
    u2seg.CLUSTERS.MIN_SCORE = 0.0
    # The same goes for masks that share more than this with a better one of the photo, as a share of the smaller of the
    # two; 1 lets nested masks of one thing in, which then make clusters of their own (docs/research/names.md).
    u2seg.CLUSTERS.MAX_OVERLAP = 1.0
    # Side in pixels of that crop.
    u2seg.CLUSTERS.CROP_SIZE = 224
    # Output directory of an earlier run whose clusters and stuff classes new photos shall get; "" fits them anew.
    u2seg.CLUSTERS.REUSE = ""

    # Amorphous regions.
    u2seg.STUFF = _part(node, "kmeans")
    # Photos (drawn by SEED) that the stuff segmenter is fitted on.
    u2seg.STUFF.FIT_IMAGES = 500
    # Features or refinement of stuff, where they differ from those above; NAME "" takes those above.
    u2seg.STUFF.FEATURES = _part(node, "")
    u2seg.STUFF.REFINE = _part(node, "")

    u2seg.MERGE = node()
    # A stuff class of an image is dropped where things cover more than this share of it (paper: 0.7).
    u2seg.MERGE.MAX_STUFF_OVERLAP = 0.7
    # Smallest segment that is kept, share of the image's area.
    u2seg.MERGE.MIN_AREA = 0.0005
    # Which mask stays on top: "area", the smaller one (the paper), or "score", the better one.
    u2seg.MERGE.ORDER = "area"
    # A thing is left out where others hide more than 1 minus this share of it; 0 keeps all.
    u2seg.MERGE.MIN_VISIBLE = 0.0
    # Things with a lower score are not painted. instances.json holds all masks whatever these say.
    u2seg.MERGE.MIN_SCORE = 0.0
    # That many of a photo's best things are painted whatever their scores.
    u2seg.MERGE.MIN_THINGS = 0

    # A round of self-training (CutLER, section 3.4). K and S come from the labels, INPUT, DEVICE, MERGE and EXECUTOR
    # from their own keys; all others of this tree are ignored.
    u2seg.SELF_TRAINING = node()
    # Directory of the labels that the model was trained on; its confident predictions are merged into them.
    u2seg.SELF_TRAINING.LABELS = ""
    # The model: OUTPUT_DIR of tools/train_net.py, whose last checkpoint is used.
    u2seg.SELF_TRAINING.MODEL = ""
    # The model's YAML and its weights (a file or URI), instead of those in MODEL.
    u2seg.SELF_TRAINING.CONFIG_FILE = ""
    u2seg.SELF_TRAINING.WEIGHTS = ""
    # In round t (1 is the first), a predicted thing is kept if its score is above SCORE - SCORE_STEP * t.
    u2seg.SELF_TRAINING.SCORE = 0.75
    u2seg.SELF_TRAINING.SCORE_STEP = 0.05
    # A predicted thing drops earlier ones, and less confident predicted ones, whose mask IoU with it is above this.
    u2seg.SELF_TRAINING.MAX_IOU = 0.5

    u2seg.EXECUTOR = node()
    # Who runs the shards: "process" (local workers), "inline" (this process) or "dask" (a cluster at ADDRESS).
    u2seg.EXECUTOR.NAME = "process"
    # Worker processes; 0 is one per GPU, or one per THREADS cores where there is none.
    u2seg.EXECUTOR.WORKERS = 0
    # BLAS and torch threads of a worker. Part of the settings: it may change the last digit of a feature.
    u2seg.EXECUTOR.THREADS = 1
    # Photos per call of the network: 1 on a CPU, 8 to 32 on a GPU. Part of the settings, as THREADS is.
    u2seg.EXECUTOR.BATCH_SIZE = 1
    # Most photos that a worker takes at a time; neither the result nor the files that it is kept in depend on it.
    u2seg.EXECUTOR.SHARD_SIZE = 4
    # Address of the Dask scheduler, such as tcp://host:8786.
    u2seg.EXECUTOR.ADDRESS = ""
    # A worker that takes longer than this for a photo is killed, and the photo put aside by name. Not with "inline".
    u2seg.EXECUTOR.PHOTO_SECONDS = 1800.0
    # Share of the photos that may fail, beside ten; with more the run stops, since then it is rarely the photos' fault.
    u2seg.EXECUTOR.MAX_FAILURES = 0.5


def check_bounds(cfg: CfgNode) -> None:
    """Check every key of `BOUNDS` and `CHOICES` that ``cfg`` has.

    Raises:
        UsageError: a number is out of range or no number, or a name is none of those allowed.
    """
    for key, value, (least, most) in _present(cfg, BOUNDS):
        if not (value >= least and (most is None or value <= most) and value < float("inf")):  # NaN fails too
            allowed = f"from {least} to {most}" if most is not None else f"{least} or more"
            raise UsageError(f"{key} must be {allowed}, not {value}")
    for key, value, allowed in _present(cfg, CHOICES):
        lookup(key, value, dict.fromkeys(allowed))


def _present(cfg: CfgNode, table: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Key, its value in ``cfg``, and its entry in ``table``; keys that ``cfg`` does not have are left out."""
    for key, entry in table.items():
        *path, last = key.split(".")
        node: Any = cfg
        for name in path:
            node = node.get(name, {})
        if last in node:
            yield key, node[last], entry
