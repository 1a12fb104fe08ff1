"""Detectron2's `launch`, after which an error of any process is the one that was raised there."""

from __future__ import annotations

import logging
import re
from typing import Any

from detectron2.engine import launch as detectron2_launch
from torch.multiprocessing import ProcessRaisedException

from u2seg.errors import U2SegError

logger = logging.getLogger(__name__)

INTERRUPTED = 130
_LAST_LINE = re.compile(rf"(?:^|\n){re.escape(U2SegError.__module__)}\.\w+: (.*)\s*\Z")


def launch(*args: Any, **kwargs: Any) -> int:
    """Run a function in as many processes as asked for; without GPUs, they run on the CPU.

    Args:
        args: those of Detectron2's `launch`.
        kwargs: those of Detectron2's `launch`.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        U2SegError: what the function raised, in whatever process or loader worker, without its traceback.
    """
    try:
        detectron2_launch(*args, **kwargs)
    except (U2SegError, ProcessRaisedException) as error:
        # a worker of a loader, or a spawned process, sends its traceback as text
        remote = _LAST_LINE.search(str(error))
        if remote is None:
            raise
        raise U2SegError(remote[1]) from error
    except KeyboardInterrupt:
        logger.warning("interrupted; run the same command with --resume to resume from the last checkpoint")
        return INTERRUPTED
    return 0
