"""Every key that this project adds to a Detectron2 config, and how YAML and ``KEY VALUE`` fill them.

Parts of the recipe are named as ``{NAME: maskcut, ARGS: {maskcut: {tau: 0.15}}}``: arguments stand under their part's
name, so another NAME never inherits them, and an absent entry means the factory's own defaults. Keys under ARGS are
free here and checked against the factory's signature before anything runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from u2seg.errors import UsageError, closest

ARGS = "ARGS"


def _part(node: type[CfgNode], name: str) -> CfgNode:
    part = node()
    part.NAME = name
    part.ARGS = node(new_allowed=True)
    return part


def add_u2seg_config(cfg: CfgNode) -> None:
    """Add the keys of this project, with their defaults, to ``cfg``: Detectron2's config or a bare `CfgNode`.

    Keys of training and evaluation come only to a config of Detectron2, whose groups they extend.
    """
    if "INPUT" in cfg:
        from u2seg.engine.config import add_train_config
        from u2seg.evaluation.config import add_evaluation_config
        from u2seg.modeling.stego_config import add_stego_config

        add_train_config(cfg)
        add_evaluation_config(cfg)
        add_stego_config(cfg)
    node = type(cfg)
    cfg.U2SEG = u2seg = node()

    # Who makes the labels: a name in the registry u2seg.pseudo.generator.PSEUDO_LABEL_GENERATORS. "U2SegGenerator" is
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

    # Frozen features that masks and their embeddings are made of.
    u2seg.FEATURES = _part(node, "vit")
    # Torch device of whatever runs a network: "auto" is a GPU where there is one.
    u2seg.DEVICE = "auto"

    # Things of one image.
    u2seg.MASKS = _part(node, "maskcut")
    # A mask is kept if refinement leaves it this similar (IoU of before and after); 0 keeps all.
    u2seg.MASKS.MIN_REFINED_IOU = 0.5

    # From grid to pixels, for masks and stuff.
    u2seg.REFINE = _part(node, "densecrf")

    # Pseudo-classes over the whole set.
    u2seg.CLUSTERS = _part(node, "kmeans")
    # Vector of a mask: "crop" (the masked crop's own embedding, as the paper; one more pass of the network for each),
    # "mean" of features inside it (costs nothing, and names worse: docs/masks.md), or "both".
    u2seg.CLUSTERS.EMBEDDING = "crop"
    # Masks with a lower score take no part in learning the clusters, unless too few were left; they get the nearest.
    u2seg.CLUSTERS.MIN_SCORE = 0.0
    # Side in pixels of that crop.
    u2seg.CLUSTERS.CROP_SIZE = 224
    # Output directory of an earlier run whose clusters and stuff classes new photos shall get; "" fits them anew.
    u2seg.CLUSTERS.REUSE = ""

    # Amorphous regions.
    u2seg.STUFF = _part(node, "kmeans")
    # Photos (drawn by SEED) that the stuff segmenter is fitted on.
    u2seg.STUFF.FIT_IMAGES = 500
    # Own features or own refinement for stuff; NAME "" takes those above.
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
    # Most things of an image, best scores first; 0 is no limit. instances.json holds all masks whatever these say.
    u2seg.MERGE.MAX_THINGS = 0
    # Things with a lower score are not painted.
    u2seg.MERGE.MIN_SCORE = 0.0

    # A round of self-training (CutLER, section 3.4). K and S come from the labels, INPUT, DEVICE, MERGE and EXECUTOR
    # from their own keys; all others of this tree are of no account.
    u2seg.SELF_TRAINING = node()
    # Directory of the labels that the model was trained on; its confident predictions are merged into them.
    u2seg.SELF_TRAINING.LABELS = ""
    # The model: OUTPUT_DIR of tools/train_net.py, of which the last checkpoint is taken.
    u2seg.SELF_TRAINING.MODEL = ""
    # The model's YAML and its weights (a file or URI), instead of those in MODEL.
    u2seg.SELF_TRAINING.CONFIG_FILE = ""
    u2seg.SELF_TRAINING.WEIGHTS = ""
    # In round t (1 is the first), things are taken over whose score is above SCORE - SCORE_STEP * t.
    u2seg.SELF_TRAINING.SCORE = 0.75
    u2seg.SELF_TRAINING.SCORE_STEP = 0.05
    # A predicted thing drops earlier ones, and less confident predicted ones, whose mask IoU with it is above this.
    u2seg.SELF_TRAINING.MAX_IOU = 0.5
    # A pixel gets the model's stuff class where its probability is this or more, and keeps its stuff label elsewhere.
    u2seg.SELF_TRAINING.STUFF_SCORE = 0.5

    u2seg.EXECUTOR = node()
    # Who runs the shards: "process" (local workers), "inline" (this process) or "dask" (a cluster at ADDRESS).
    u2seg.EXECUTOR.NAME = "process"
    # Worker processes; 0 is one per GPU, or one per THREADS cores where there is none.
    u2seg.EXECUTOR.WORKERS = 0
    # BLAS and torch threads of a worker. Part of the settings: it may change the last digit of a feature.
    u2seg.EXECUTOR.THREADS = 1
    # Photos per call of the network: 1 on a CPU, 8 to 32 on a GPU. Part of the settings, as THREADS is.
    u2seg.EXECUTOR.BATCH_SIZE = 1
    # Most photos that a worker takes at a time; the result does not depend on it.
    u2seg.EXECUTOR.SHARD_SIZE = 16
    # Address of the Dask scheduler, such as tcp://host:8786.
    u2seg.EXECUTOR.ADDRESS = ""


def get_pseudo_cfg() -> CfgNode:
    """A config of the label factory alone, which needs no Detectron2."""
    cfg = CfgNode()
    cfg.VERSION = 2
    add_u2seg_config(cfg)
    return cfg


def merge_config_file(cfg: CfgNode, path: str) -> None:
    """Fill ``cfg`` from a YAML file, following ``_BASE_``.

    Raises:
        UsageError: there is no such file, it is no YAML, or it holds a key or a type that nobody declared.
    """
    if not Path(path).is_file():
        raise UsageError(f"--config-file {path!r} does not exist")
    try:
        loaded = CfgNode.load_yaml_with_base(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no mapping of config keys")
    for key, value in _leaves(cfg, loaded):
        set_key(cfg, key, value, source=path)


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Fill ``cfg`` from ``KEY VALUE KEY VALUE ...`` as typed on a command line.

    Raises:
        UsageError: a value is missing, a key is unknown, or a type does not fit.
    """
    if len(options) % 2:
        raise UsageError(f"config options come as KEY VALUE; {options[-1]!r} has no value")
    for key, text in zip(options[::2], options[1::2], strict=True):
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            value = text
        set_key(cfg, key, value, source="the command line")


def _leaves(cfg: Any, loaded: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of ``loaded`` down to what ``cfg`` holds no node for."""
    for key, value in loaded.items():
        full = f"{prefix}{key}"
        below = cfg.get(key) if isinstance(cfg, CfgNode) else None
        if isinstance(value, dict) and (isinstance(below, CfgNode) or not isinstance(cfg, CfgNode) or _is_free(cfg)):
            yield from _leaves(below, value, f"{full}.")
        else:
            yield full, value


def _is_free(node: CfgNode) -> bool:
    return bool(node.is_new_allowed())


def set_key(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    """Set ``key`` (dotted) of ``cfg`` to ``value``; under ARGS keys are made as needed.

    Raises:
        UsageError: nobody declared ``key``, or ``value`` is of another type than its default.
    """
    *path, last = key.split(".")
    node = cfg
    for depth, name in enumerate(path):
        if name not in node:
            if not _is_free(node):
                raise UsageError(_unknown(key, ".".join(path[:depth]), name, node, source))
            node[name] = type(cfg)(new_allowed=True)
        node = node[name]
        if not isinstance(node, CfgNode):
            raise UsageError(f"{key!r} in {source}: {'.'.join(path[: depth + 1])} is a value and has no keys below it")
    if last not in node and not _is_free(node):
        raise UsageError(_unknown(key, ".".join(path), last, node, source))
    node[last] = _coerce(key, value, node[last], source) if last in node and not _is_free(node) else value


def _unknown(key: str, parent: str, name: str, node: CfgNode, source: str) -> str:
    allowed = ", ".join(sorted(node)) if len(node) <= 20 else f"{len(node)} others"
    return f"no config key {key!r} (in {source}).{closest(name, node)} {parent or 'The top level'} has: {allowed}."


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    """``value`` in the type of ``default``, or a UsageError."""
    wanted = type(default)
    if isinstance(default, CfgNode):
        raise UsageError(f"{key!r} in {source} is a group of keys ({', '.join(sorted(default))}), not a value")
    if isinstance(value, str) and wanted is float:
        # YAML 1.1 reads 1e-5 as a string.
        with contextlib.suppress(ValueError):
            value = float(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is tuple and isinstance(value, list):
        return tuple(value)
    if wanted is list and isinstance(value, tuple):
        return list(value)
    if wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if default is None or type(value) is wanted:
        return value
    raise UsageError(f"{key!r} in {source} must be {wanted.__name__} (default {default!r}), not {value!r}")


def part_args(part: CfgNode) -> dict[str, Any]:
    """The arguments that ``part`` (a node with NAME and ARGS) holds for the component it names, as plain values."""
    args = part.ARGS.get(part.NAME, {})
    if not isinstance(args, dict):
        raise UsageError(f"ARGS.{part.NAME} must be a group of arguments, not {args!r}")
    return plain(args)


def plain(value: Any) -> Any:
    """``value`` with every `CfgNode` turned into a dict."""
    return {key: plain(below) for key, below in value.items()} if isinstance(value, dict) else value
