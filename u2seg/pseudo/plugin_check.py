"""The full contract of a plugin's parts, checked with the arguments and the context that a config gives them."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from u2seg.config import part_args
from u2seg.plugins.api import PARTS
from u2seg.plugins.checks import check_offer
from u2seg.plugins.offers import Offer
from u2seg.plugins.registry import installed_plugins
from u2seg.pseudo.parts import nodes
from u2seg.pseudo.recipe import Recipe
from u2seg.runtime import worker_device


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
        things, stuff = recipe.extractors(device) if real_features else (None, None)
        context = nodes(recipe.context(offer.kind, device))
        if not real_features and "features" in context:
            context["features"] = None
        check_offer(offer, _arguments(offer, cfg), context, stuff if offer.kind == "stuff segmenter" else things)
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
