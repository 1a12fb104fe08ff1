"""The one way in which YAML files and ``KEY VALUE`` pairs fill a config, in every tool.

Values are read by the rules of YAML 1.2: ``1e-5`` is a number, while ``2024-01-05``, ``12:30``, ``0012``, ``yes`` and
``on`` are strings. A key whose default is a string takes what was typed, letter by letter. Python tuples such as
``"('a', 'b')"`` are read too, as Detectron2 does.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from u2seg.errors import UsageError, closest

BASE_KEY = "_BASE_"
MAX_DEPTH = 40
"""Most levels of keys; a YAML that refers to itself has no end."""

_NUMBER = re.compile(
    r"[-+]?(?:(?P<int>0|[1-9][0-9]*)|(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "None": None} | {
    word: value for value, words in ((True, "true True TRUE"), (False, "false False FALSE")) for word in words.split()
}


class Plain(str):
    """What stands in a file or on a command line without quotes; its type depends on the key that it is for."""


class _Loader(yaml.SafeLoader):
    """YAML with every unquoted scalar as `Plain`."""

    def construct_scalar_as_typed(self, node: yaml.ScalarNode) -> str:
        return Plain(node.value) if node.style is None else str(node.value)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_scalar_as_typed)


def fill(cfg: CfgNode, config_file: str = "", options: Sequence[str] = ()) -> None:
    """Fill ``cfg`` from a YAML file, following ``_BASE_``, then from ``KEY VALUE KEY VALUE ...``.

    Raises:
        UsageError: the file can't be read, a value is missing, a key is unknown, or a type does not fit.
    """
    if config_file:
        for key, value in read_yaml(config_file).items():
            set_key(cfg, key, value, source=config_file)
    if len(options) % 2:
        raise UsageError(f"config options come as KEY VALUE; {options[-1]!r} has no value")
    for key, text in zip(options[::2], options[1::2], strict=True):
        set_key(cfg, key, Plain(text), source="the command line")


def read_yaml(path: str | Path, leaves: Sequence[Path] = ()) -> dict[str, Any]:
    """The content of a YAML file laid over that of its ``_BASE_``, one path or several; unquoted scalars are `Plain`.

    Raises:
        UsageError: there is no such file, it is no YAML mapping, or its bases form a loop.
    """
    if "://" in str(path):
        raise UsageError(f"config file {str(path)!r} is a URL; download it first and name the file")
    file = Path(path).expanduser()
    if not file.is_file():
        named = f"{BASE_KEY} of {leaves[-1]}" if leaves else "--config-file"
        raise UsageError(f"{named}: {str(path)!r} does not exist")
    if file.resolve() in [leaf.resolve() for leaf in leaves]:
        raise UsageError(f"{leaves[0]}: its {BASE_KEY} leads back to {file}")
    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UsageError(f"{file} can't be read as YAML: {' '.join(str(error).split())[:300]}") from error
    if content is None or (isinstance(content, Plain) and not content.strip()):
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{file} holds no mapping of config keys")
    bases = content.pop(BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str):
            raise UsageError(f"{file}: {BASE_KEY} names another YAML file, not {base!r}")
        place = base if "://" in base else file.parent / Path(base).expanduser()
        _lay_over(merged, read_yaml(place, [*leaves, file]))
    _lay_over(merged, content)
    return merged


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Put the leaves of ``above`` into ``below``, level by level."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict) and value is not below[key]:
            _lay_over(below[key], value)
        else:
            below[key] = value


def set_key(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    """Set ``key`` (dotted) of ``cfg`` to ``value``, or those below it; under ARGS keys are made as needed.

    Raises:
        UsageError: nobody declared ``key``, or ``value`` is of another type than its default.
    """
    *path, last = key.split(".")
    if len(path) > MAX_DEPTH:
        raise UsageError(f"config keys are nested more than {MAX_DEPTH} deep, from {key[:60]!r} on")
    node = cfg
    for depth, name in enumerate(path):
        if name not in node:
            if not node.is_new_allowed():
                raise UsageError(_unknown(key, ".".join(path[:depth]), name, node, source))
            node[name] = type(cfg)(new_allowed=True)
        node = node[name]
        if not isinstance(node, CfgNode):
            raise UsageError(f"{key!r} in {source}: {'.'.join(path[: depth + 1])} is a value and has no keys below it")
    if isinstance(value, dict) and (node.is_new_allowed() or isinstance(node.get(last), CfgNode)):
        for name, below in value.items():
            set_key(cfg, f"{key}.{name}", below, source)
    elif last in node and not node.is_new_allowed():
        node[last] = _of_type(key, value, node[last], source)
    elif node.is_new_allowed():
        node[last] = interpret(value)
    else:
        raise UsageError(_unknown(key, ".".join(path), last, node, source))


def _unknown(key: str, parent: str, name: str, node: CfgNode, source: str) -> str:
    allowed = ", ".join(sorted(node)) if len(node) <= 20 else f"{len(node)} others"
    return f"no config key {key!r} (in {source}).{closest(name, node)} {parent or 'The top level'} has: {allowed}."


def interpret(value: Any) -> Any:
    """``value`` with every `Plain` in it read by the rules of YAML 1.2, or as a Python tuple, list or string."""
    if isinstance(value, dict):
        return {str(key): interpret(below) for key, below in value.items()}
    if isinstance(value, list):
        return [interpret(below) for below in value]
    if not isinstance(value, Plain):
        return value
    text = value.strip()
    if text in _WORDS:
        return _WORDS[text]
    if number := _NUMBER.match(text):
        return int(text) if number["int"] else float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if text[:1] in "([{\"'":
        return _structure(text)
    return str(value)


def _structure(text: str) -> Any:
    """What a flow list, mapping or quoted string stands for: by YAML, else by Python, else the text itself."""
    with contextlib.suppress(yaml.YAMLError, RecursionError):
        loaded = yaml.load(text, Loader=_Loader)
        if not isinstance(loaded, Plain):
            return interpret(loaded)
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(text)
    return text


def _of_type(key: str, raw: Any, default: Any, source: str) -> Any:
    """``raw`` in the type of ``default``, or a UsageError."""
    if isinstance(default, CfgNode):
        raise UsageError(f"{key!r} in {source} is a group of keys ({', '.join(sorted(default))}), not a value")
    if isinstance(default, str) and isinstance(raw, Plain):
        text = str(raw)  # a shell may have left quotes around it: ``"'x'"`` is ``x``
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    value, kind = interpret(raw), type(default)
    if isinstance(default, (tuple, list)):
        names = all(isinstance(entry, str) for entry in default)  # also where the default is empty
        if names and isinstance(raw, str) and not isinstance(value, (tuple, list)):
            value = [str(raw)] if raw else []  # one name stands for a sequence of itself
        fits = isinstance(value, (tuple, list))
    else:
        fits = default is None or type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        raise UsageError(f"{key!r} in {source} must be {kind.__name__} (default {default!r}), not {value!r}")
    return value if default is None else kind(value)


def part_args(part: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that ``part`` (a node with NAME and ARGS) holds for the component it names, as plain values."""
    args = part["ARGS"].get(part["NAME"], {})
    if not isinstance(args, dict):
        raise UsageError(f"ARGS.{part['NAME']} must be a group of arguments, not {args!r}")
    return plain(args)


def plain(value: Any) -> Any:
    """``value`` with every `CfgNode` turned into a dict."""
    return {key: plain(below) for key, below in value.items()} if isinstance(value, dict) else value


def put_back(cfg: MutableMapping[str, Any], before: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Give every key of ``before``, a copy, the value in ``cfg`` that it has there; dotted keys that had another."""
    for key, value in before.items():
        if isinstance(value, Mapping) and isinstance(cfg.get(key), MutableMapping):
            yield from put_back(cfg[key], value, f"{prefix}{key}.")
        elif key not in cfg or type(cfg[key]) is not type(value) or cfg[key] != value:
            cfg[key] = value
            yield f"{prefix}{key}"
