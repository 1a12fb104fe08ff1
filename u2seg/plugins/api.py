"""What a plugin may offer (the hooks), and what each part must do (the contracts).

A plugin is a module (or object) in the entry-point group ``u2seg``. Provider hooks take nothing and return
``{name: factory}``. They are called to list names, so they must import nothing heavy: do that inside the factory.
A factory takes keyword arguments only; they come from the YAML (``U2SEG.<PART>.ARGS.<name>``) and are checked
against its signature before it is called. Of the context that `PARTS` lists, it is given what it names. All offers are
collected; the YAML names the one that is used. To refuse a value, a factory or a part raises `u2seg.UsageError`.

A plugin may say for which version of all this it is made: ``U2SEG_CONTRACT = 1`` in its module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pluggy

from u2seg.plugins.contracts import (
    Clusterer,
    Embeds,
    FeatureExtractor,
    GeneratesBatch,
    HasCenters,
    HasInfo,
    MaskGenerator,
    Prepares,
    Refiner,
    RefinesMany,
    SharesPass,
    StuffSegmenter,
)

PROJECT = "u2seg"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

CONTRACT_VERSION = 1
"""Of hooks and contracts; it rises when a plugin that was made for the one before would not work any more."""

Factories = dict[str, Callable[..., Any]]


@hookspec
def u2seg_feature_extractors() -> Factories:
    """Offer factories of `FeatureExtractor`."""
    raise NotImplementedError


@hookspec
def u2seg_mask_generators() -> Factories:
    """Offer factories of `MaskGenerator`."""
    raise NotImplementedError


@hookspec
def u2seg_refiners() -> Factories:
    """Offer factories of `Refiner`."""
    raise NotImplementedError


@hookspec
def u2seg_clusterers() -> Factories:
    """Offer factories of `Clusterer`."""
    raise NotImplementedError


@hookspec
def u2seg_stuff_segmenters() -> Factories:
    """Offer factories of `StuffSegmenter`."""
    raise NotImplementedError


@hookspec
def u2seg_add_config(cfg: Any) -> None:
    """Add config keys with their defaults to ``cfg``, a `CfgNode`, such as those of a trainer or generator.

    Called whenever a config is made, before a YAML fills it. It is called for the config of the label factory too,
    which has no group but ``U2SEG``: look before you extend one.
    """
    raise NotImplementedError


@hookspec
def u2seg_register_detectron2() -> None:
    """Register models, mappers, trainers, evaluators or generators in their registries. Called once in each process."""


@dataclass(frozen=True)
class PartKind:
    """One kind of part: who offers it, where a config names it, and what it must do."""

    hook: str
    keys: tuple[str, ...]
    """Config nodes ``{NAME, ARGS}``."""
    contract: type
    optional: tuple[type, ...]
    context: tuple[str, ...]
    """What the program gives to a factory that names it. ``device``: a torch device, as text. ``random_state``: the
    seed, ``U2SEG.SEED``. ``n_clusters`` and ``num_classes``: K and S. ``features``: the node ``{NAME, ARGS}`` of the
    extractor whose features the part will see."""


SEEDED = ("device", "random_state")
PARTS: dict[str, PartKind] = {
    "feature extractor": PartKind(
        "u2seg_feature_extractors",
        ("U2SEG.FEATURES", "U2SEG.STUFF.FEATURES"),
        FeatureExtractor,
        (Embeds, Prepares, SharesPass),
        SEEDED,
    ),
    "mask generator": PartKind(
        "u2seg_mask_generators", ("U2SEG.MASKS",), MaskGenerator, (GeneratesBatch,), (*SEEDED, "features")
    ),
    "refiner": PartKind("u2seg_refiners", ("U2SEG.REFINE", "U2SEG.STUFF.REFINE"), Refiner, (RefinesMany,), SEEDED),
    "clusterer": PartKind(
        "u2seg_clusterers", ("U2SEG.CLUSTERS",), Clusterer, (HasCenters,), (*SEEDED, "features", "n_clusters")
    ),
    "stuff segmenter": PartKind(
        "u2seg_stuff_segmenters", ("U2SEG.STUFF",), StuffSegmenter, (HasInfo,), (*SEEDED, "features", "num_classes")
    ),
}
"""Kind of part, in words, to what it is."""
