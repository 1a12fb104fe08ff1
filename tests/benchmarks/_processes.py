"""Processor time of processes that a benchmark starts, with all that they start themselves."""

import contextlib
import ctypes
import os
import resource
import sys

PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's ``prctl``: what the descendants of this process leave behind becomes its child."""


def adopt_orphans():
    """Let `processor_seconds` count processes whose parent ends first, such as the server that workers are forked from.

    Call it before any of them starts. It does nothing but on Linux.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def processor_seconds():
    """User and system seconds of all processes below this one that have ended; those that run are waited for.

    Exact, since each process hands its parent its own seconds and those of its children that it has waited for.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
