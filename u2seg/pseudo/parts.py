"""Builds the parts that ``U2SEG`` names, once in each process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from u2seg.plugins.registry import installed_plugins

Settings = dict[str, Any]
"""The ``U2SEG`` tree of a config as plain dicts: what travels to workers."""


def feature_settings(settings: Settings, stuff: bool = False) -> Settings:
    """The node ``{NAME, ARGS}`` of the feature extractor of things, or of stuff."""
    own = settings["STUFF"]["FEATURES"]
    return own if stuff and own["NAME"] else settings["FEATURES"]


def refiner_settings(settings: Settings, stuff: bool = False) -> Settings:
    """The node ``{NAME, ARGS}`` of the refiner of things, or of stuff."""
    own = settings["STUFF"]["REFINE"]
    return own if stuff and own["NAME"] else settings["REFINE"]


def own_args(node: Settings) -> Settings:
    """Arguments that a node ``{NAME, ARGS}`` holds for the component it names."""
    return node["ARGS"].get(node["NAME"], {})


def build_extractor(settings: Settings, device: str, stuff: bool = False) -> Any:
    """The feature extractor of things or of stuff, on ``device``; the same object on every call."""
    return _build("feature extractor", feature_settings(settings, stuff), {"device": device})


def build_mask_generator(settings: Settings, device: str) -> Any:
    """The mask generator, on ``device``; the same object on every call."""
    return _build("mask generator", settings["MASKS"], {"device": device})


def build_refiner(settings: Settings, stuff: bool = False) -> Any:
    """The refiner of things or of stuff; the same object on every call."""
    return _build("refiner", refiner_settings(settings, stuff), {})


def build_clusterer(settings: Settings) -> Any:
    """A fresh clusterer for K clusters."""
    given = {"n_clusters": settings["NUM_THINGS"], "random_state": settings["SEED"]}
    return _offer("clusterer", settings["CLUSTERS"]).build(own_args(settings["CLUSTERS"]), given)


def build_stuff_segmenter(settings: Settings, device: str) -> Any:
    """A fresh stuff segmenter for S classes."""
    given = {
        "num_classes": settings["NUM_STUFF"],
        "random_state": settings["SEED"],
        "device": device,
        "features": feature_settings(settings, stuff=True),
    }
    return _offer("stuff segmenter", settings["STUFF"]).build(own_args(settings["STUFF"]), given)


def distributions(settings: Settings) -> dict[str, str]:
    """Which distribution each part that ``settings`` name comes from."""
    nodes = {
        "feature extractor": feature_settings(settings),
        "feature extractor of stuff": feature_settings(settings, stuff=True),
        "mask generator": settings["MASKS"],
        "refiner": refiner_settings(settings),
        "refiner of stuff": refiner_settings(settings, stuff=True),
        "clusterer": settings["CLUSTERS"],
        "stuff segmenter": settings["STUFF"],
    }
    return {
        role: f"{node['NAME']} from {_offer(role.removesuffix(' of stuff'), node).distribution}"
        for role, node in nodes.items()
    }


def _offer(kind: str, node: Settings) -> Any:
    return installed_plugins().offer(kind, node["NAME"])


def _build(kind: str, node: Settings, given: Mapping[str, Any]) -> Any:
    return _build_once(kind, node["NAME"], json.dumps(own_args(node), sort_keys=True), json.dumps(given))


@lru_cache(maxsize=8)
def _build_once(kind: str, name: str, args: str, given: str) -> Any:
    return installed_plugins().offer(kind, name).build(json.loads(args), json.loads(given))
