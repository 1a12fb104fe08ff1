"""Says where something of a plugin failed: the error, and the last line of the plugin's own code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Collection
from pathlib import Path

from u2seg.errors import PluginError
from u2seg.runtime import DEBUG_VARIABLE

logger = logging.getLogger(__name__)

CAUGHT = (Exception, SystemExit)
"""What a third party's code may raise without ending the program; Ctrl-C is not among it."""


def describe(error: BaseException, packages: Collection[str]) -> str:
    """``ValueError: too dark (my_masks.py:12)``.

    Args:
        error: with its traceback.
        packages: names of the plugin's top-level modules; the last line of these is named, or the last of all.
    """
    text = " ".join(str(error).split())
    line = _last_line(error, packages)
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({line})" if line else "")


def _last_line(error: BaseException, packages: Collection[str]) -> str:
    frames = list(traceback.walk_tb(error.__traceback__))
    of_plugin = [(f, line) for f, line in frames if f.f_globals.get("__name__", "").split(".")[0] in packages]
    for frame, line in (of_plugin or frames)[-1:]:
        return f"{_short(frame.f_code.co_filename)}:{line}"
    return ""


def _short(file: str) -> str:
    """``file`` as seen from the folder that Python imports it from."""
    folders = [Path(folder) for folder in sys.path if folder and Path(file).is_relative_to(folder)]
    return str(Path(file).relative_to(max(folders, key=lambda folder: len(folder.parts)))) if folders else file


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
