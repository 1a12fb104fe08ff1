"""How far a stage has come: a bar on a terminal, a line with an estimate every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts photos of one stage; use as a context manager and call `advance`."""

    def __init__(self, title: str, total: int, unit: str = "photo") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._started = self._said = time.monotonic()
        self._bar = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.title, unit=self.unit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES and self.done:
            self._said = now
            left = (now - self._started) / self.done * (self.total - self.done)
            rate = self.done / (now - self._started)
            logger.info(
                "%s: %d of %d %ss, %.2f a second, %s left",
                self.title,
                self.done,
                self.total,
                self.unit,
                rate,
                readable_seconds(left),
            )


def readable_seconds(seconds: float) -> str:
    """``95.0`` as ``1 min 35 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
