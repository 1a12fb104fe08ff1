"""What every command-line tool shares: logging to stderr, and errors as one line instead of a traceback."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

from u2seg.errors import U2SegError

DEBUG_VARIABLE = "U2SEG_DEBUG"
"""Set to 1, errors come with their traceback."""


def run_tool(main: Callable[[], int | None]) -> int:
    """Call ``main`` and return the exit code.

    0 is success; 1 an error of the system, 2 of what the user gave, 130 Ctrl-C. What a run wrote before stays.
    """
    level = logging.DEBUG if os.environ.get(DEBUG_VARIABLE) == "1" else logging.INFO
    logging.getLogger("u2seg").setLevel(level)
    handler = logging.StreamHandler(sys.stderr)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
    try:
        return _call(main)
    finally:
        # Whoever calls several tools in one process may have turned stderr elsewhere by the next.
        root.removeHandler(handler)


def _call(main: Callable[[], int | None]) -> int:
    """The exit code of ``main``, errors said in one line."""
    try:
        return main() or 0
    except U2SegError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain("stopped; run the same command again to go on", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{what}{where}; what is done stays, run the same command again to go on", 1)
    except MemoryError:
        return _complain("out of memory; run the same command again with fewer workers to go on", 1)


def _complain(message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        logging.getLogger(__name__).exception("traceback, since %s is set", DEBUG_VARIABLE)
    name = os.path.basename(sys.argv[0])
    sys.stderr.write(f"{name}: error: {' '.join(message.split())}\n")
    return code
