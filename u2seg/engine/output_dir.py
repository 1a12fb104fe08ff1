"""The output directory of a training run: one run at a time, and which of its checkpoints to resume from."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from pathlib import Path

from u2seg.errors import DataError, U2SegError
from u2seg.files import locked, sweep_parts
from u2seg.weights_file import read_weights

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
"""File of an output directory that names its newest checkpoint."""
CHECKPOINTS = "model_*.pth"
"""Names of those that are saved every so many steps, and at the end."""


@functools.cache  # a process that trains several times in a directory is not in its own way
def occupy(directory: str) -> None:
    """Keep other processes from training in ``directory`` until this one ends, and sweep what killed ones left.

    Raises:
        UsageError: one is training there.
    """
    lock = contextlib.ExitStack()
    busy = f"another training is at work in OUTPUT_DIR {directory}; wait for its end, or give a new directory"
    lock.enter_context(locked(Path(directory) / "lock", busy))
    if hasattr(os, "register_at_fork"):  # loader workers outlive a killed run by seconds, and must not keep its lock
        os.register_at_fork(after_in_child=lock.close)
    swept = sweep_parts(Path(directory))
    if swept:
        logger.info("%d half-written files of earlier runs are deleted from %s", swept, directory)


def last_checkpoint(directory: str | Path) -> str:
    """Path of the checkpoint that ``last_checkpoint`` names, or "" where it names none."""
    file = Path(directory) / LAST
    try:
        return str(file.with_name(file.read_text(encoding="utf-8").strip()))
    except (OSError, ValueError):  # it is missing; it is no text, or no name
        return ""


def newest_checkpoint(directory: str | Path) -> str:
    """Path of the newest checkpoint of ``directory`` that is whole, or "" where there are none.

    It is the one that ``last_checkpoint`` names; where that is missing or damaged, the one that was written before it.

    Raises:
        DataError: there are some, but none is whole.
    """
    named, reasons = last_checkpoint(directory), []
    files = Path(directory).glob(CHECKPOINTS)
    newest_first = map(str, sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True))
    for file in dict.fromkeys([named, *newest_first] if Path(named).is_file() else newest_first):
        try:
            read_weights(file)
        except U2SegError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            logger.warning("%s", reason)
        if file != named:
            logger.warning("%s names no whole checkpoint; %s is the newest", Path(directory) / LAST, file)
        return file
    if reasons:
        advice = "train without --resume to start anew"
        raise DataError(f"no checkpoint in {directory} is whole: {reasons[0]}; {advice}")
    return ""
