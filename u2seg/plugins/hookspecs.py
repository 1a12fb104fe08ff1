"""The hooks that a plugin may implement.

A plugin is a module (or object) in the entry-point group ``u2seg``. Provider hooks take nothing and return
``{name: factory}``. They are called to list names, so they must import nothing heavy: do that inside the factory.
A factory takes keyword arguments only; they come from the YAML (``U2SEG.<PART>.ARGS.<name>``) and are checked
against its signature before it is called. All offers are collected; the YAML names the one that is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

PROJECT = "u2seg"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Factories = dict[str, Callable[..., Any]]


@hookspec
def u2seg_feature_extractors() -> Factories:
    """Offer factories of `u2seg.plugins.contracts.FeatureExtractor`."""
    raise NotImplementedError


@hookspec
def u2seg_mask_generators() -> Factories:
    """Offer factories of `u2seg.plugins.contracts.MaskGenerator`."""
    raise NotImplementedError


@hookspec
def u2seg_clusterers() -> Factories:
    """Offer factories of `u2seg.plugins.contracts.Clusterer`; also given ``n_clusters`` and ``random_state``."""
    raise NotImplementedError


@hookspec
def u2seg_stuff_segmenters() -> Factories:
    """Offer factories of `u2seg.plugins.contracts.StuffSegmenter`.

    A factory that names them is also given ``num_classes``, ``random_state``, ``device`` and ``features``, the node
    ``{NAME, ARGS}`` of the extractor whose features it will see.
    """
    raise NotImplementedError


@hookspec
def u2seg_refiners() -> Factories:
    """Offer factories of `u2seg.plugins.contracts.Refiner`."""
    raise NotImplementedError


@hookspec
def u2seg_register_detectron2() -> None:
    """Register models, mappers, evaluators or datasets in Detectron2's registries. Called once, inside ``main``."""
