"""What a training shows on a terminal, and what it writes to ``log.txt``: everything, without colour codes."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
import time
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode

from u2seg.files import write_bytes
from u2seg.runtime import readable_seconds

logger = logging.getLogger(__name__)

SECONDS_WITHOUT_LINE = 5.0
"""After which the losses are logged, whatever the iteration."""
SECONDS_BETWEEN_LINES = 2.0
"""Least time between two lines of losses on a terminal; ``log.txt`` has them all."""
ITERATIONS_BETWEEN_LINES = 20
"""Of Detectron2's `DefaultTrainer`."""
LOSSES, PAGES = ".utils.events", (".engine.defaults", ".engine.console")
"""Ends of the names of loggers: of Detectron2, whose formatter shortens it to ``d2``, and of this module."""


def set_up_logging(output: str) -> None:
    """Log to the terminal (the main process) and to ``log.txt`` in the folder ``output`` (every process)."""
    for name in ("fvcore", "detectron2", "u2seg"):
        for handler in setup_logger(output, distributed_rank=comm.get_rank(), name=name).handlers:
            if getattr(handler, "stream", None) is sys.stdout and not handler.filters:
                handler.addFilter(TerminalFilter())


def set_up_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """What Detectron2's ``default_setup`` does after its logging: environment and config go to files, seeds are set."""
    rank = comm.get_rank()
    logger.info(
        "process %d of %d; environment, config and model: %s/log.txt", rank, comm.get_world_size(), cfg.OUTPUT_DIR
    )
    logger.info("Command line arguments: %s\nEnvironment info:\n%s", args, collect_env_info())
    logger.info("Running with full config:\n%s", cfg.dump())
    file = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if comm.is_main_process() and not (args.eval_only and file.exists()):  # that of the training stays
        write_bytes(file, cfg.dump().encode())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


class TerminalFilter(logging.Filter):
    """Keeps what fills pages, and losses that come quicker than anyone reads, off the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._next_line = 0.0  # seconds, as of the records

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.endswith(LOSSES):
            if record.created < self._next_line:
                return False
            self._next_line = record.created + SECONDS_BETWEEN_LINES
        return not (record.name.endswith(PAGES) and "\n" in record.getMessage())


class RegularLines(HookBase):
    """Logs the losses every few seconds where iterations take long, and after the first; and how long one takes."""

    def before_train(self) -> None:
        """Start watching, in the main process alone."""
        self._printer = CommonMetricPrinter(self.trainer.max_iter)
        self._logged_at = -SECONDS_WITHOUT_LINE  # seconds, of `time.monotonic`, as the next one
        self._step_began_at = time.monotonic()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        if comm.is_main_process():
            self._watcher.start()

    def after_train(self) -> None:
        """Stop watching: no line comes after this."""
        self._ended.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def before_step(self) -> None:
        self._step_began_at = time.monotonic()

    def _watch(self) -> None:
        """Log a line every few seconds of an iteration that does not end."""
        with contextlib.suppress(ReferenceError):  # the trainer is gone
            while not self._ended.wait(SECONDS_WITHOUT_LINE):
                seconds, iteration = time.monotonic() - self._step_began_at, self.trainer.iter
                _, last_done = self.trainer.storage.latest().get("total_loss", (0.0, -1))
                # what comes behind an iteration, such as an evaluation, has lines of its own
                if seconds >= SECONDS_WITHOUT_LINE and last_done < iteration < self.trainer.max_iter:
                    logger.info("iteration %d has taken %s so far", iteration, readable_seconds(seconds))

    def after_step(self) -> None:
        """Log a line, unless Detectron2 has."""
        if not comm.is_main_process():
            return
        iteration, now = self.trainer.iter + 1, time.monotonic()
        if iteration % ITERATIONS_BETWEEN_LINES == 0 or iteration == self.trainer.max_iter:
            self._logged_at = now
        elif now - self._logged_at >= SECONDS_WITHOUT_LINE:
            self._printer.write()
            self._logged_at = now
