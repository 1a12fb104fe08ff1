"""Finds plugins, one entry point at a time, and builds the parts they offer.

Entry-point group: ``u2seg``. ``U2SEG_DISABLE_PLUGINS=name,name`` leaves entry points out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pluggy

from u2seg.errors import PluginError, UsageError, closest, lookup
from u2seg.plugins import api

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "u2seg"
DISABLE_VARIABLE = "U2SEG_DISABLE_PLUGINS"

KINDS: dict[str, str] = {
    "feature extractor": "u2seg_feature_extractors",
    "mask generator": "u2seg_mask_generators",
    "clusterer": "u2seg_clusterers",
    "stuff segmenter": "u2seg_stuff_segmenters",
    "refiner": "u2seg_refiners",
}
"""Kind of part, in words, to the hook that offers it."""


@dataclass(frozen=True)
class Offer:
    """One factory under one name, and who offers it."""

    kind: str
    name: str
    factory: Callable[..., Any]
    distribution: str
    """Name and version of the pip distribution, or ``u2seg (built in)``."""

    def check(self, args: Mapping[str, Any], given: Mapping[str, Any] = {}) -> None:
        """Raise UsageError unless the factory takes ``args`` from the config and ``given`` from the program."""
        parameters = inspect.signature(self.factory).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        free = [name for name in parameters if name not in given]
        for name in args:
            if name in given:
                raise UsageError(f"{self.kind} {self.name!r}: {name!r} has a config key of its own")
            if name not in parameters and not open_ended:
                takes = ", ".join(f"{key}={parameters[key].default!r}" for key in free) or "nothing"
                raise UsageError(
                    f"{self.kind} {self.name!r} takes no argument {name!r}.{closest(name, free)} It takes: {takes}."
                )
        missing = [key for key in free if _is_required(parameters[key]) and key not in args]
        if missing:
            raise UsageError(f"{self.kind} {self.name!r} needs the argument {', '.join(missing)}")

    def build(self, args: Mapping[str, Any], given: Mapping[str, Any] = {}) -> Any:
        """Call the factory with ``args`` and those of ``given`` that it names."""
        self.check(args, given)
        parameters = inspect.signature(self.factory).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        wanted = {key: value for key, value in given.items() if key in parameters or open_ended}
        return self.factory(**args, **wanted)


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and not variadic


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that could not be used, and why."""

    name: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.name!r} of {self.distribution} is broken: {self.reason} "
            f"(fix or uninstall it, or set {DISABLE_VARIABLE}={self.name})"
        )


@dataclass
class Plugins:
    """Everything that the installed plugins offer."""

    manager: pluggy.PluginManager
    offers: dict[str, dict[str, Offer]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    broken: list[BrokenPlugin] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    distributions: dict[str, str] = field(default_factory=dict)

    def offer(self, kind: str, name: str) -> Offer:
        """The offer of ``name``.

        Raises:
            UsageError: nobody offers it.
            PluginError: nobody offers it, and a broken plugin might have.
        """
        try:
            return lookup(kind, name, self.offers[kind])
        except UsageError as error:
            if self.broken:
                raise PluginError(f"{error} Not loaded: {'; '.join(map(str, self.broken))}") from error
            raise

    def add(self, name: str, plugin: Any, distribution: str) -> None:
        """Register ``plugin`` and collect its offers; a plugin that breaks the rules is noted in `broken`."""
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
            found = self._collect(name, plugin, distribution)
        except PluginError:
            raise
        except Exception as error:
            # pluggy keeps what it could not validate: take it out, or every later check fails on it.
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            self.broken.append(BrokenPlugin(name, distribution, f"{type(error).__name__}: {error}"))
            logger.warning("%s", self.broken[-1])
            return
        for offer in found:
            self.offers[offer.kind][offer.name] = offer
        self.distributions[name] = distribution

    def _collect(self, name: str, plugin: Any, distribution: str) -> list[Offer]:
        found = []
        for kind, hook in KINDS.items():
            provider = getattr(plugin, hook, None)
            if provider is None:
                continue
            factories = provider()
            if not isinstance(factories, Mapping) or not all(callable(f) for f in factories.values()):
                raise TypeError(f"{hook}() must return {{name: factory}}, not {factories!r}")
            for part, factory in factories.items():
                other = self.offers[kind].get(part)
                if other is not None:
                    raise PluginError(
                        f"{kind} {part!r} is offered by {other.distribution} and by {distribution}; "
                        f"disable one with {DISABLE_VARIABLE}={name}"
                    )
                found.append(Offer(kind, part, factory, distribution))
        return found

    def table(self) -> list[dict[str, str]]:
        """Rows kind, name, distribution, signature and first line of help, for ``--list-plugins``."""
        return [
            {
                "kind": offer.kind,
                "name": offer.name,
                "distribution": offer.distribution,
                "arguments": str(inspect.signature(offer.factory)),
                "help": (inspect.getdoc(offer.factory) or "").split("\n")[0],
            }
            for offers in self.offers.values()
            for offer in sorted(offers.values(), key=lambda o: o.name)
        ]


def load_plugins(entry_points: Any = None, disabled: str | None = None) -> Plugins:
    """Register the built-ins and every plugin of the entry-point group.

    Args:
        entry_points: what to load; the installed ones if None.
        disabled: comma-separated entry-point names to leave out; the environment variable if None.

    Raises:
        PluginError: two plugins offer one name.
    """
    manager = pluggy.PluginManager(api.PROJECT)
    manager.add_hookspecs(api)
    plugins = Plugins(manager)
    # by name, as an entry point: what the built-ins offer may itself ask this module for parts
    plugins.add("builtin", importlib.import_module("u2seg.plugins.builtin"), "u2seg (built in)")
    if plugins.broken:
        raise PluginError(str(plugins.broken[0]))
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    refused = (os.environ.get(DISABLE_VARIABLE, "") if disabled is None else disabled).split(",")
    refused = [name.strip() for name in refused if name.strip()]
    for entry_point in sorted(entry_points, key=lambda e: e.name):
        if entry_point.name in refused:
            plugins.disabled.append(entry_point.name)
            continue
        distribution = _distribution(entry_point)
        try:
            plugin = entry_point.load()
        except Exception as error:  # a third party's module may raise anything
            reason = f"{type(error).__name__}: {error}"
            plugins.broken.append(BrokenPlugin(entry_point.name, distribution, reason))
            logger.warning("%s", plugins.broken[-1])
            continue
        plugins.add(entry_point.name, plugin, distribution)
    return plugins


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    dist = getattr(entry_point, "dist", None)
    return f"{dist.name} {dist.version}" if dist is not None else entry_point.value


@cache
def installed_plugins() -> Plugins:
    """The plugins of this process, found once."""
    return load_plugins()


def add_plugin_config(cfg: Any) -> None:
    """Let every plugin add config keys of its own to ``cfg``, a `CfgNode`."""
    installed_plugins().manager.hook.u2seg_add_config(cfg=cfg)


def register_detectron2() -> None:
    """Let every plugin add to Detectron2's registries; the first call does it, later ones do nothing."""
    _register_detectron2_once()


@cache
def _register_detectron2_once() -> None:
    installed_plugins().manager.hook.u2seg_register_detectron2()
