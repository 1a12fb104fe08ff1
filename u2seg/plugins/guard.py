"""A part as a run uses it: what it raises is named, and what it gives is checked.

Errors of the kinds that a run understands stay what they are. Whatever else a part raises becomes a DataError, which
costs the photo at hand, or a PluginError, which ends the run: files that can't be opened, a contract that is broken.
"""

from __future__ import annotations

import functools
import logging
import os
import traceback
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, PluginError, UsageError
from u2seg.plugins import rules
from u2seg.runtime import DEBUG_VARIABLE, at_work

logger = logging.getLogger(__name__)

CAUGHT = (Exception, SystemExit)
"""What a third party's code may raise without ending the program; Ctrl-C is not among it."""
MOST_REFUSED = 3
"""Photos that a part may give bad values for before it is given up, if it has never given good ones."""
FOR_NOTHING: dict[str, Any] = {
    "extract": [],
    "embed": np.zeros((0, 0), np.float32),
    "predict": np.zeros(0, np.int64),
}
"""What is given for no images or no vectors: most libraries can't take an empty array, so no part is asked."""


class GuardedPart:
    """Stands for a part: the methods of its contract are guarded, everything else is the part's own."""

    def __init__(self, kind: str, part: Any, title: str, packages: Collection[str], built_in: bool = False) -> None:
        """Guard ``part`` of a ``kind``, a key of `u2seg.plugins.api.PARTS`.

        ``title`` has kind, name and distribution in words; ``packages`` are top-level modules of the plugin. Errors of
        a part that is ``built_in`` stay as they are, where a run understands them.

        Raises:
            PluginError: the part lacks something that its contract names.
        """
        self._part, self._title, self._packages, self._built_in = part, title, packages, built_in
        self._kept: set[str] = set()
        self._refused = 0
        with self._named([]):
            rules.check_members(kind, part)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_part":  # asked for by pickle, before there is a part
            raise AttributeError(name)
        value = getattr(self._part, name)
        if name not in rules.RULES and name != "refine_many":
            return value
        if value is None:  # how a class takes away what its base class may have
            raise AttributeError(name)
        return self._refine_many if name == "refine_many" else functools.partial(self._call, name)

    def _call(self, name: str, *args: Any) -> Any:
        if name in FOR_NOTHING and not len(args[0]):
            return FOR_NOTHING[name].copy()
        raised: list[BaseException] = []
        arguments = [_remember(arg, raised) if isinstance(arg, Iterator) else unguarded(arg) for arg in args]
        with self._named(raised, name):
            result = rules.call_checked(self._part, name, *arguments, look_at_inputs=name not in self._kept)
        self._kept.add(name)
        return self if result is self._part else result

    def _refine_many(self, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        raised: list[BaseException] = []
        with self._named(raised, "refine_many"):
            yield from rules.refine_many_checked(self._part, image, _remember(iter(many), raised))
        self._kept.add("refine_many")

    @contextmanager
    def _named(self, raised: list[BaseException], method: str = "") -> Iterator[None]:
        """Name what the block raises, unless it came out of what the part was given and is in ``raised``."""
        try:
            with at_work(self._title):
                yield
        except rules.BrokenRuleError as error:
            text = f"{self._title} breaks its contract: {error}"
            self._refused += 1
            passing = isinstance(error, rules.BadValuesError) and (method in self._kept or self._refused < MOST_REFUSED)
            raise (DataError(text) if passing else PluginError(text)) from error
        except (UsageError, PluginError, MemoryError):
            raise
        except CAUGHT as error:
            understood = self._built_in and isinstance(error, (DataError, OSError))
            if understood or any(error is other for other in raised):
                raise
            kind = PluginError if isinstance(error, OSError) else DataError
            raise kind(f"{self._title}: {describe(error, self._packages)}") from error


def unguarded(value: Any) -> Any:
    """``value`` with parts in place of those that stand for them: a part may know its like by their class."""
    if isinstance(value, (list, tuple)):
        return [unguarded(item) for item in value]
    return value._part if isinstance(value, GuardedPart) else value


def _remember(stream: Iterator[Any], raised: list[BaseException]) -> Iterator[Any]:
    """``stream``; an error that comes out of it is noted in ``raised``."""
    try:
        yield from stream
    except Exception as error:
        raised.append(error)
        raise


def describe(error: BaseException, packages: Collection[str]) -> str:
    """``ValueError: too dark (my_masks.py:12)``.

    That is the last line in ``packages``, top-level modules of a plugin, or the last of all.
    """
    text = " ".join(str(error).split())
    line = _last_line(error, packages)
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({line})" if line else "")


def _last_line(error: BaseException, packages: Collection[str]) -> str:
    """``my_masks.py:12``, the file from its package on."""
    frames = list(traceback.walk_tb(error.__traceback__))
    of_plugin = [(f, line) for f, line in frames if f.f_globals.get("__name__", "").split(".")[0] in packages]
    for frame, line in (of_plugin or frames)[-1:]:
        file, module = Path(frame.f_code.co_filename), frame.f_globals.get("__name__", "")
        parts = 1 + module.count(".") + (file.stem == "__init__")
        return f"{'/'.join(file.parts[-parts:])}:{line}"
    return ""


def print_traceback(what: str) -> None:
    """Log the traceback of the error at hand where ``U2SEG_DEBUG`` is 1, also from a worker process."""
    if os.environ.get(DEBUG_VARIABLE) == "1":
        # A worker has no handlers; what is a warning or more goes to its stderr all the same.
        logger.warning("%s: traceback, since %s is set", what, DEBUG_VARIABLE, exc_info=True)


def at_photo(error: PluginError, photo: str) -> PluginError:
    """``error`` with the name of the ``photo`` that was at work, unless it has one."""
    if hasattr(error, "photo"):
        return error
    named = PluginError(f"{error} (at photo {photo})")
    named.photo = photo  # type: ignore[attr-defined]
    return named
