"""What a plugin's `u2seg_add_config` does to a config: it adds keys, and leaves those of others alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any


def put_back(cfg: MutableMapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Give every key of ``before``, a copy, the value in ``cfg`` that it has there.

    Returns:
        The keys (dotted) that had another value or were gone.
    """
    return list(_put_back(cfg, before, ""))


def _put_back(cfg: MutableMapping[str, Any], before: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in before.items():
        if isinstance(value, Mapping) and isinstance(cfg.get(key), MutableMapping):
            yield from _put_back(cfg[key], value, f"{prefix}{key}.")
        elif key not in cfg or type(cfg[key]) is not type(value) or cfg[key] != value:
            cfg[key] = value
            yield f"{prefix}{key}"
