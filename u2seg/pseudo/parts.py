"""A part of a recipe by its name and arguments: what travels to worker processes, where each is built once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from u2seg.config import part_args
from u2seg.plugins.api import PARTS
from u2seg.plugins.guard import GuardedPart
from u2seg.plugins.offers import BUILT_IN, Offer
from u2seg.plugins.registry import installed_plugins

ALONE: dict[str, Any] = {"device": "cpu", "random_state": 0, "features": None}
"""Context of a part that is built outside of a run."""


@dataclass(frozen=True)
class Part:
    """A component by its name, with its arguments."""

    kind: str
    """A key of `u2seg.plugins.api.PARTS`."""
    name: str
    arguments: str
    """As JSON, so that a part can be hashed."""

    @classmethod
    def from_config(cls, kind: str, node: Mapping[str, Any]) -> Part:
        """The component that ``node`` ``{NAME, ARGS}`` names."""
        return cls(kind, node["NAME"], json.dumps(part_args(node), sort_keys=True))

    def build(self, **context: Any) -> Any:
        """The component, made anew and guarded (`u2seg.plugins.guard`); of ``context`` it gets what its factory names.

        What `u2seg.plugins.api.PARTS` lists and ``context`` lacks is that of a part that stands alone; a `Part` is
        given as its node.

        Raises:
            UsageError: an argument is not one of the factory's, or it refuses a value.
            PluginError: the factory fails, or the part lacks a method of its contract.
        """
        known = PARTS[self.kind].context
        full = {**{key: value for key, value in ALONE.items() if key in known}, **context}
        offer = self._offer
        part = offer.build(json.loads(self.arguments), nodes(full))
        return GuardedPart(self.kind, part, offer.title, offer.packages, built_in=offer.distribution == BUILT_IN)

    def node(self) -> dict[str, Any]:
        """As in a config: ``{NAME, ARGS}``."""
        return {"NAME": self.name, "ARGS": {self.name: json.loads(self.arguments)}}

    @property
    def _offer(self) -> Offer:
        return installed_plugins().offer(self.kind, self.name)

    @property
    def distribution(self) -> str:
        """Name and version of the pip distribution that offers it."""
        return self._offer.distribution

    def takes(self, name: str) -> bool:
        """Whether the component's factory names ``name`` of the context."""
        return self._offer.takes(name)

    def settings(self) -> dict[str, Any]:
        """What a result depends on: name, arguments and distribution."""
        return {**self.node(), "from": self.distribution}


def nodes(context: Mapping[str, Any]) -> dict[str, Any]:
    """``context`` with the node of each `Part` in it."""
    return {key: value.node() if isinstance(value, Part) else value for key, value in context.items()}


def build_once(part: Part, **context: Any) -> Any:
    """The component of ``part``: the same object on every call in this process with what it takes of ``context``."""
    return _built(part, **{name: value for name, value in context.items() if part.takes(name)})


@lru_cache(maxsize=16)
def _built(part: Part, **context: Any) -> Any:
    return part.build(**context)
