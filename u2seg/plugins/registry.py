"""Finds plugins, one entry point at a time, and calls each hook of each plugin by itself.

Entry-point group: ``u2seg``. ``U2SEG_DISABLE_PLUGINS=name,name`` leaves entry points out.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn

import pluggy

from u2seg.config import put_back
from u2seg.errors import PluginError, UsageError, closest, unknown
from u2seg.plugins import api
from u2seg.plugins.guard import CAUGHT, describe
from u2seg.plugins.offers import BUILT_IN, DISABLE_VARIABLE, BrokenPlugin, Offer
from u2seg.runtime import RANK_VARIABLE

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "u2seg"
HOOKS = tuple(name for name in vars(api) if name.startswith("u2seg_"))


@dataclass
class Plugins:
    """Everything that the installed plugins offer."""

    manager: pluggy.PluginManager
    offers: list[Offer] = field(default_factory=list)
    """Two of one kind and name are an error when that name is asked for."""
    broken: list[BrokenPlugin] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    distributions: dict[str, str] = field(default_factory=dict)
    """What ``U2SEG_DISABLE_PLUGINS`` calls a plugin, be it broken, to its distribution."""

    def offer(self, kind: str, name: str) -> Offer:
        """The offer of ``name``.

        Raises:
            UsageError: nobody offers it.
            PluginError: nobody offers it, and a broken plugin might have; or several do.
        """
        of_kind = [offer for offer in self.offers if offer.kind == kind]
        matches = [offer for offer in of_kind if offer.name == name]
        if not matches:
            self._refuse(kind, name, [offer.name for offer in of_kind])
        if len(matches) > 1:
            who = " and by ".join(offer.distribution for offer in matches)
            names = " or ".join(offer.plugin for offer in matches if offer.distribution != BUILT_IN)
            raise PluginError(f"{kind} {name!r} is offered by {who}; disable one with {DISABLE_VARIABLE}={names}")
        return matches[0]

    def named(self, name: str) -> list[Offer]:
        """Every offer called ``name``, and all of the plugin called so.

        Raises:
            UsageError: there is none.
            PluginError: there is none, or the plugin is broken.
        """
        matches = [offer for offer in self.offers if name in (offer.name, offer.plugin)]
        for broken in self.broken:
            if broken.name in {name, *(offer.plugin for offer in matches)}:
                raise PluginError(str(broken))
        if not matches and name in self.distributions:
            raise UsageError(f"plugin {name!r} of {self.distributions[name]} offers no part that could be checked")
        if not matches:
            self._refuse("part or plugin", name, [word for offer in self.offers for word in (offer.name, offer.plugin)])
        return matches

    def _refuse(self, kind: str, name: str, names: Iterable[str]) -> NoReturn:
        """Raise UsageError with the ``names`` that there are; PluginError where a broken plugin might have it."""
        text = unknown(kind, name, names)
        if self.disabled:
            text = f"{text} {DISABLE_VARIABLE} leaves out: {', '.join(self.disabled)}."
        if self.broken:
            raise PluginError(f"{text} Not loaded: {'; '.join(map(str, self.broken))}")
        raise UsageError(text)

    def add(self, name: str, plugin: Any, distribution: str) -> None:
        """Register ``plugin`` and collect its offers; what breaks the rules is noted in `broken`."""
        self.distributions[name] = distribution
        version = getattr(plugin, "U2SEG_CONTRACT", api.CONTRACT_VERSION)
        if version != api.CONTRACT_VERSION:
            newer = isinstance(version, int) and version > api.CONTRACT_VERSION
            made_for = f"it is made for version {version} of u2seg's plugin contract, not {api.CONTRACT_VERSION}"
            self._report(name, f"{made_for}: update {'u2seg' if newer else 'the plugin'}")
            return
        try:
            self.manager.register(plugin, name)
        except CAUGHT as error:
            # pluggy keeps what it could not validate: take it out, or every later check fails on it.
            if self.manager.get_plugin(name) is plugin:
                self.manager.unregister(name=name)
            self._report(name, describe(error, ()))
            return
        self._report_unmarked(name, plugin)
        for kind, spec in api.PARTS.items():
            for factories in self._call(spec.hook, name):
                if not isinstance(factories, Mapping) or not all(callable(f) for f in factories.values()):
                    self._report(name, f"{spec.hook}() must return {{name: factory}}, not {factories!r}")
                    continue
                self.offers += [
                    Offer(kind, part, factory, distribution, name, _module(plugin))
                    for part, factory in factories.items()
                ]

    def call_each(self, hook: str, **arguments: Any) -> None:
        """Call ``hook`` of each plugin, the built-in ones first; one that fails is noted in `broken`."""
        for name, _ in self.manager.list_name_plugin():
            self._call(hook, name, **arguments)

    def _call(self, hook: str, name: str, **arguments: Any) -> list[Any]:
        """What ``hook`` of the plugin ``name`` returns: a list of none or one."""
        plugin = self.manager.get_plugin(name)
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        try:
            return self.manager.subset_hook_caller(hook, others)(**arguments)
        except CAUGHT as error:
            self._report(name, f"{hook}: {describe(error, {_module(plugin).split('.')[0]})}")
            return []

    def _report_unmarked(self, name: str, plugin: Any) -> None:
        """Report functions of ``plugin`` that look like hooks and are none."""
        for attribute in dir(plugin):
            function = getattr(plugin, attribute, None)
            if not attribute.startswith("u2seg_") or not inspect.isroutine(function):
                continue
            if attribute not in HOOKS:
                self._report(name, f"there is no hook {attribute}.{closest(attribute, HOOKS)}")
            elif self.manager.parse_hookimpl_opts(plugin, attribute) is None:
                self._report(name, f"{attribute} is not called: @u2seg.hookimpl is missing above it")

    def _report(self, name: str, reason: str) -> None:
        broken = BrokenPlugin(name, self.distributions[name], reason)
        if broken not in self.broken:
            self.broken.append(broken)
            _warn(str(broken))

    def third_parties(self) -> dict[str, str]:
        """`distributions` but for the built-in parts."""
        return {name: distribution for name, distribution in self.distributions.items() if distribution != BUILT_IN}

    def table(self) -> list[dict[str, str]]:
        """Rows kind, name, distribution, signature and first line of help, for ``--list-plugins``."""
        kinds = list(api.PARTS)
        return [offer.row() for offer in sorted(self.offers, key=lambda offer: (kinds.index(offer.kind), offer.name))]


def load_plugins(entry_points: Any = None, disabled: str | None = None) -> Plugins:
    """Register the built-ins and every plugin of the entry-point group.

    Args:
        entry_points: what to load; the installed ones if None.
        disabled: comma-separated names to leave out; the environment variable if None. A name is that of the entry
            point, or ``distribution:name`` where several distributions have one name.
    """
    manager = pluggy.PluginManager(api.PROJECT)
    manager.add_hookspecs(api)
    plugins = Plugins(manager)
    # by name, as an entry point: what the built-ins offer may itself ask this module for parts
    plugins.add(BUILT_IN, importlib.import_module("u2seg.plugins.builtin"), BUILT_IN)
    if plugins.broken:
        raise PluginError(str(plugins.broken[0]))
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    counts = Counter(entry_point.name for entry_point in entry_points)
    text = os.environ.get(DISABLE_VARIABLE, "") if disabled is None else disabled
    refused = {name.strip() for name in text.split(",") if name.strip()}
    known: set[str] = set()
    for entry_point in sorted(entry_points, key=lambda e: (e.name, _distribution(e))):
        distribution = _distribution(entry_point)
        full = f"{distribution.split(' ')[0]}:{entry_point.name}"
        name = entry_point.name if counts[entry_point.name] == 1 else full
        known |= {entry_point.name, full}
        if refused & {entry_point.name, full}:
            plugins.disabled.append(name)
            continue
        try:
            plugin = entry_point.load()
        except CAUGHT as error:  # a third party's module may raise anything
            plugins.distributions[name] = distribution
            plugins._report(name, describe(error, {entry_point.value.split(":")[0].split(".")[0]}))
        else:
            plugins.add(name, plugin, distribution)
    for name in sorted(refused - known):
        _warn(f"{DISABLE_VARIABLE}: {unknown('plugin', name, counts)}")
    return plugins


def _warn(text: str) -> None:
    """Say ``text`` once for all processes of a run."""
    logger.log(logging.DEBUG if RANK_VARIABLE in os.environ else logging.WARNING, "%s", text)


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    dist = getattr(entry_point, "dist", None)
    return f"{dist.name} {dist.version}" if dist is not None else entry_point.value


def _module(plugin: Any) -> str:
    return plugin.__name__ if inspect.ismodule(plugin) else getattr(plugin, "__module__", "")


@cache
def installed_plugins() -> Plugins:
    """The plugins of this process, found once."""
    return load_plugins()


def add_plugin_config(cfg: Any) -> None:
    """Let every plugin add config keys of its own to ``cfg``, a `CfgNode`; keys of others that it changes are put back.

    Such a plugin is noted in `Plugins.broken`.
    """
    plugins = installed_plugins()
    for name in plugins.third_parties():
        before = copy.deepcopy(cfg)
        plugins._call("u2seg_add_config", name, cfg=cfg)
        if keys := ", ".join(put_back(cfg, before)):
            plugins._report(name, f"u2seg_add_config changes {keys}, not its own; the default stays")


@cache
def register_detectron2() -> None:
    """Let every plugin add to Detectron2's registries; the first call does it, later ones do nothing."""
    installed_plugins().call_each("u2seg_register_detectron2")
