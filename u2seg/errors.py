"""Errors that a user can do something about; tools print their text as one line and no traceback."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, which a terminal obeys, and what stands for bytes that are no UTF-8."""


class U2SegError(Exception):
    """Base of every error that this package raises on purpose."""


class UsageError(U2SegError, ValueError):
    """Something the user typed (a config key, a name, a path) can't be taken."""


class DataError(U2SegError, ValueError):
    """A file or an array does not hold what it should."""


class PluginError(U2SegError):
    """A plugin is broken, or two plugins contradict each other."""


def printable(text: str) -> str:
    """``text`` with a replacement sign for what must not reach a terminal; line ends and tabs stay."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def closest(name: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of ``allowed``, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``.

    Raises:
        UsageError: there is no such name; the message lists those that there are.
    """
    if name not in table:
        raise UsageError(unknown(kind, name, table))
    return table[name]


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """The sentences that say that no ``kind`` has the ``name``, and which are ``allowed``."""
    names = sorted(set(allowed))
    return f"no {kind} named {name!r}.{closest(name, names)} There are: {', '.join(names) or 'none'}."


def within(name: str, value: float, low: float, high: float = math.inf, whole: bool = False) -> float:
    """Return ``value``, the argument ``name``.

    Raises:
        UsageError: it does not lie in [low, high], or is no whole number where a ``whole`` one is asked for.
    """
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        allowed = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number {allowed}, not {value!r}")
    return value
