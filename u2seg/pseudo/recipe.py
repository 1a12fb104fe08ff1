"""The recipe of a run: the ``U2SEG`` tree of a config as frozen, typed values, and the parts that it names.

A recipe travels to worker processes. What it gives to parts, the full contract of a plugin's parts is checked with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

import u2seg
from u2seg.config import part_args
from u2seg.plugins.api import PARTS
from u2seg.plugins.checks import check_offer
from u2seg.plugins.offers import Offer
from u2seg.plugins.registry import installed_plugins
from u2seg.pseudo.parts import Part, build_once, nodes
from u2seg.runtime import worker_device
from u2seg.structures import LabelSpace


@dataclass(frozen=True)
class MergeRules:
    """``U2SEG.MERGE``, see `u2seg.config.keys`."""

    max_stuff_overlap: float
    min_area: float
    min_visible: float
    min_score: float
    min_things: int
    order: str

    def settings(self) -> dict[str, Any]:
        """By key, for the ledger."""
        return {f"U2SEG.MERGE.{key.upper()}": value for key, value in vars(self).items()}


@dataclass(frozen=True)
class ExecutorSettings:
    """``U2SEG.EXECUTOR``, see `u2seg.config.keys`."""

    name: str
    workers: int
    threads: int
    batch_size: int
    shard_size: int
    address: str
    photo_seconds: float
    max_failures: float


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is told; the fields are the keys of `u2seg.config.keys`."""

    seed: int
    space: LabelSpace
    max_pixels: int
    max_decoded_pixels: int
    device: str
    features: Part
    masks: Part
    min_refined_iou: float
    keep_rough: bool
    soft_edges: bool
    crops: float
    refine: Part
    clusterer: Part
    embedding: str
    crop_size: int
    cluster_min_score: float
    cluster_max_overlap: float
    reuse: str
    stuff: Part
    stuff_features: Part
    stuff_refine: Part
    fit_images: int
    merge: MergeRules
    executor: ExecutorSettings

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Recipe:
        """The recipe of ``cfg.U2SEG``.

        Raises:
            UsageError: a part's arguments are no group.
        """
        tree = cfg.U2SEG
        clusters, stuff = tree.CLUSTERS, tree.STUFF
        return cls(
            seed=tree.SEED,
            space=LabelSpace(tree.NUM_THINGS, tree.NUM_STUFF),
            max_pixels=tree.INPUT.MAX_PIXELS,
            max_decoded_pixels=tree.INPUT.MAX_DECODED_PIXELS,
            device=tree.DEVICE,
            features=Part.from_config("feature extractor", tree.FEATURES),
            masks=Part.from_config("mask generator", tree.MASKS),
            min_refined_iou=tree.MASKS.MIN_REFINED_IOU,
            keep_rough=tree.MASKS.KEEP_ROUGH,
            soft_edges=tree.MASKS.SOFT_EDGES,
            crops=tree.MASKS.CROPS,
            refine=Part.from_config("refiner", tree.REFINE),
            clusterer=Part.from_config("clusterer", clusters),
            embedding=clusters.EMBEDDING,
            crop_size=clusters.CROP_SIZE,
            cluster_min_score=clusters.MIN_SCORE,
            cluster_max_overlap=clusters.MAX_OVERLAP,
            reuse=clusters.REUSE,
            stuff=Part.from_config("stuff segmenter", stuff),
            stuff_features=Part.from_config(
                "feature extractor", stuff.FEATURES if stuff.FEATURES.NAME else tree.FEATURES
            ),
            stuff_refine=Part.from_config("refiner", stuff.REFINE if stuff.REFINE.NAME else tree.REFINE),
            fit_images=stuff.FIT_IMAGES,
            merge=MergeRules(**{key.lower(): value for key, value in tree.MERGE.items()}),
            executor=ExecutorSettings(**{key.lower(): value for key, value in tree.EXECUTOR.items()}),
        )

    def context(self, kind: str, device: str) -> dict[str, Any]:
        """What the program gives to factories of ``kind`` that name it, see `u2seg.plugins.api.PARTS`."""
        values = {
            "device": device,
            "random_state": self.seed,
            "features": self.stuff_features if kind == "stuff segmenter" else self.features,
            "n_clusters": self.space.num_things,
            "num_classes": self.space.num_stuff,
        }
        return {name: values[name] for name in PARTS[kind].context}

    def build(self, part: Part, device: str) -> Any:
        """``part``, one of this recipe's, made anew."""
        return part.build(**self.context(part.kind, device))

    def once(self, part: Part, device: str) -> Any:
        """``part``, one of this recipe's: the same object on every call in this process."""
        return build_once(part, **self.context(part.kind, device))

    @property
    def extractors(self) -> dict[str, Part]:
        """The feature extractors of ``things`` and ``stuff``, which may be the same."""
        return {"things": self.features, "stuff": self.stuff_features}

    def check(self, device: str) -> dict[str, dict[str, Any]]:
        """Build every part once and fetch its weights, so that a mistake shows before hours of work.

        Returns:
            What the feature extractors of ``things`` and ``stuff`` say of their weights: ``weights``, ``sha256``,
            ``caveat`` and so on.

        Raises:
            UsageError: a part refuses its arguments.
            PluginError: a part that is asked for may be in a broken plugin.
        """
        for part in (self.masks, self.refine, self.stuff_refine):
            self.once(part, device)
        self.build(self.clusterer, device)
        segmenter = self.build(self.stuff, "cpu")
        weights = {}
        for role, part in self.extractors.items():
            prepare = getattr(self.once(part, device), "prepare", None)
            weights[role] = dict(prepare()) if prepare else {"name": part.name}
        if hasattr(segmenter, "info"):
            weights["stuff"]["segmenter"] = dict(segmenter.info)
        return weights

    def distributions(self) -> dict[str, str]:
        """Which distribution each part comes from, for the record."""
        roles: dict[str, Part] = {
            "feature extractor": self.features,
            "feature extractor of stuff": self.stuff_features,
            "mask generator": self.masks,
            "refiner": self.refine,
            "refiner of stuff": self.stuff_refine,
            "clusterer": self.clusterer,
            "stuff segmenter": self.stuff,
        }
        return {role: f"{part.name} from {part.distribution}" for role, part in roles.items()}

    def identity(self, with_weights: bool) -> dict[str, Any]:
        """What must be the same on every machine that works on a run: versions, plugins and, if asked for, weights."""
        same: dict[str, Any] = {"u2seg": u2seg.__version__, "plugins": installed_plugins().distributions}
        for role, part in self.extractors.items() if with_weights else ():
            info = getattr(self.once(part, "cpu"), "info", {})
            same[f"weights of {role}"] = {key: info.get(key) for key in ("weights_sha256", "precision")}
        return same


def check_plugin(name: str, cfg: CfgNode, real_features: bool) -> Iterator[str]:
    """Check each part called ``name``, or each of the plugin called so; a line for each that keeps its contract.

    Parts that need features get those of the extractors of ``cfg``, if ``real_features``; else they are made up.

    Raises:
        UsageError: there is no such part, or it refuses an argument.
        PluginError: a part does not keep its contract.
    """
    recipe = Recipe.from_config(cfg)
    device = worker_device(recipe.device)
    for offer in installed_plugins().named(name):
        context, extractor = nodes(recipe.context(offer.kind, device)), None
        if real_features:
            seen = recipe.stuff_features if offer.kind == "stuff segmenter" else recipe.features
            extractor = recipe.once(seen, device)
        elif "features" in context:
            context["features"] = None
        check_offer(offer, _arguments(offer, cfg), context, extractor)
        yield f"{offer.title} keeps its contract"


def _arguments(offer: Offer, cfg: CfgNode) -> dict[str, object]:
    """What ``cfg`` holds for ``offer``, under whichever of the kind's keys."""
    arguments: dict[str, object] = {}
    for key in reversed(PARTS[offer.kind].keys):
        node = cfg
        for word in key.split("."):
            node = node[word]
        arguments |= part_args({"NAME": offer.name, "ARGS": node.ARGS})
    return arguments
