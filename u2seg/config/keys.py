"""Reads the keys that this project adds to a Detectron2 config: default, meaning and bounds of each are in two YAMLs.

``label.yaml`` beside this file has the tree ``U2SEG``, ``training.yaml`` what extends the groups of Detectron2.

============================================ ==========================================
``!share 0.5``                               a number from 0 to 1; 0.5 is the default
``!number {default: 4, least: 1, most: 9}``  a number from 1 to 9; without ``most``, 1 or more
``!choice [area, score]``                    one of these names; the first is the default
============================================ ==========================================

Parts of the recipe are named as ``{NAME: maskcut, ARGS: {maskcut: {tau: 0.15}}}``: arguments stand under their part's
name, so another NAME never inherits them, and an absent entry means the factory's own defaults. Keys under ARGS are
free here and checked against the factory's signature before anything runs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from u2seg.errors import UsageError, lookup


@dataclass(frozen=True)
class Number:
    """A number and its bounds."""

    default: float
    least: float
    most: float | None = None

    def check(self, key: str, value: float) -> None:
        """Raise UsageError unless ``value``, that of ``key``, is a number in bounds."""
        if not (value >= self.least and (self.most is None or value <= self.most) and value < float("inf")):  # NaN too
            allowed = f"from {self.least} to {self.most}" if self.most is not None else f"{self.least} or more"
            raise UsageError(f"{key} must be {allowed}, not {value}")


@dataclass(frozen=True)
class Choice:
    """A name out of a few."""

    names: tuple[str, ...]

    @property
    def default(self) -> str:
        """The first."""
        return self.names[0]

    def check(self, key: str, value: str) -> None:
        """Raise UsageError unless ``value``, that of ``key``, is one of the names."""
        lookup(key, value, dict.fromkeys(self.names))


class _KeysLoader(yaml.SafeLoader):
    """YAML with the tags above."""


_KeysLoader.add_constructor("!share", lambda loader, node: Number(loader.construct_yaml_float(node), 0, 1))
_KeysLoader.add_constructor("!number", lambda loader, node: Number(**loader.construct_mapping(node)))
_KeysLoader.add_constructor("!choice", lambda loader, node: Choice(tuple(loader.construct_sequence(node))))


@cache
def _declared(file: str) -> dict[str, Any]:
    """The keys that ``file``, of this folder, declares: groups as dicts, down to defaults, `Number` and `Choice`."""
    return yaml.load(Path(__file__).with_name(file).read_text(encoding="utf-8"), _KeysLoader)


def add_u2seg_config(cfg: CfgNode) -> None:
    """Add the keys of this project, with their defaults, to ``cfg``: Detectron2's config or a bare `CfgNode`.

    Keys of training and evaluation come only to a config of Detectron2, whose groups they extend. None of Detectron2's
    own defaults is changed. Called again, it changes nothing.
    """
    if "U2SEG" in cfg:
        return
    if "INPUT" in cfg:
        _add(cfg, _declared("training.yaml"))
    _add(cfg, _declared("label.yaml"))


def get_pseudo_cfg() -> CfgNode:
    """A config of the label factory alone, which needs no Detectron2."""
    cfg = CfgNode()
    cfg.VERSION = 2
    add_u2seg_config(cfg)
    return cfg


def _add(node: CfgNode, declared: Mapping[str, Any]) -> None:
    """Put the defaults of ``declared`` into ``node``; only to groups called ARGS may keys be added later."""
    for key, value in declared.items():
        if isinstance(value, dict):
            if key not in node:
                node[key] = type(node)(new_allowed=key == "ARGS")
            _add(node[key], value)
        else:
            node[key] = value.default if isinstance(value, (Number, Choice)) else copy.copy(value)


def check_bounds(cfg: CfgNode) -> None:
    """Check every key that ``cfg`` has and for which bounds or a choice are declared.

    Raises:
        UsageError: a number is out of range or no number, or a name is none of those allowed.
    """
    for file in ("label.yaml", "training.yaml"):
        _check(cfg, _declared(file))


def _check(node: CfgNode, declared: Mapping[str, Any], prefix: str = "") -> None:
    for key, value in declared.items():
        if isinstance(value, (Number, Choice)) and key in node:
            value.check(prefix + key, node[key])
        elif isinstance(value, dict) and key in node:
            _check(node[key], value, f"{prefix}{key}.")
