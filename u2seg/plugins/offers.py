"""What a plugin offers, and what is wrong with one that can't be used."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from u2seg.errors import PluginError, U2SegError, UsageError, closest
from u2seg.plugins.guard import CAUGHT, describe

DISABLE_VARIABLE = "U2SEG_DISABLE_PLUGINS"
BUILT_IN = "u2seg (built in)"


@dataclass(frozen=True)
class Offer:
    """One factory under one name, and who offers it."""

    kind: str
    """A key of `u2seg.plugins.api.PARTS`."""
    name: str
    factory: Callable[..., Any]
    distribution: str
    """Name and version of the pip distribution, or `BUILT_IN`."""
    plugin: str
    """What `DISABLE_VARIABLE` calls the plugin."""
    module: str = ""
    """Of the plugin."""

    @property
    def title(self) -> str:
        """Kind, name and distribution, in words."""
        return f"{self.kind} {self.name!r} of {self.distribution}"

    @property
    def signature(self) -> inspect.Signature:
        """Of the factory; one that takes anything where Python can't tell."""
        try:
            return inspect.signature(self.factory)
        except (TypeError, ValueError):
            return inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)])

    def takes(self, name: str) -> bool:
        """Whether the factory takes an argument ``name``."""
        parameters = self.signature.parameters
        return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def build(self, args: Mapping[str, Any], context: Mapping[str, Any] = {}) -> Any:
        """Call the factory with ``args``, from the config, and those of ``context``, from the program, that it names.

        Raises:
            UsageError: an argument is not one of the factory's, or it refuses a value.
            PluginError: the factory fails.
        """
        for name in args:
            if name in context:
                raise UsageError(f"{self.kind} {self.name!r}: {name!r} has a config key of its own")
        arguments = {**args, **{name: value for name, value in context.items() if self.takes(name)}}
        try:
            self.signature.bind(**arguments)
        except TypeError as error:
            near = "".join(closest(name, self.signature.parameters) for name in args if not self.takes(name))
            raise UsageError(f"{self.kind} {self.name!r}: {error}.{near} It takes {self.signature}.") from error
        try:
            return self.factory(**arguments)
        except (U2SegError, MemoryError):
            raise
        except CAUGHT as error:
            raise PluginError(f"{self.title} can't be built: {describe(error, self.packages)}") from error

    @property
    def packages(self) -> frozenset[str]:
        """Top-level modules in which the plugin's own code is."""
        modules = (self.module, getattr(self.factory, "__module__", None) or "")
        return frozenset(module.split(".")[0] for module in modules if module)

    def row(self) -> dict[str, str]:
        """The offer in words, for ``--list-plugins``."""
        return {
            "kind": self.kind,
            "name": self.name,
            "distribution": self.distribution,
            "arguments": str(self.signature),
            "help": (inspect.getdoc(self.factory) or "").split("\n")[0],
        }


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point of which something could not be used, and why."""

    name: str
    """What `DISABLE_VARIABLE` calls it."""
    distribution: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.name!r} of {self.distribution} is broken: {self.reason} "
            f"(fix or uninstall it, or set {DISABLE_VARIABLE}={self.name})"
        )
