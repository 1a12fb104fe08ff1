"""What every command-line tool shares: its parser, how Ctrl-C and SIGTERM end it, and whose warnings reach the user."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

DEBUG_VARIABLE = "U2SEG_DEBUG"
"""Set to 1, errors come with their traceback, and warnings of other libraries are shown."""
SECONDS_TO_ANSWER = 0.7
"""After which a signal is answered in words, since something that can't be interrupted runs on."""
SECONDS_TO_REPEAT = 0.3
"""Within which a second signal is the same one, sent to the process and to its group, as ``timeout`` does."""
SECONDS_TO_END = 3.0
"""That child processes have to end by themselves."""
LEAKS = "ignore::UserWarning:multiprocessing.resource_tracker"
"""For ``PYTHONWARNINGS`` of child processes: those that are told to stop clean up nothing, and need not."""
_LIBRARIES = "u2seg torch torchvision detectron2 fvcore iopath timm PIL numpy scipy sklearn matplotlib pycocotools"
_NOISY_LOGGERS = ("torch.fx", "torch.utils.cpp_extension", "torch.distributed")


class ToolParser(argparse.ArgumentParser):
    """Errors are one line. Options may also stand behind ``KEY VALUE`` pairs, and values may be negative."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._negative_number_matcher = re.compile(r"-[.\d]")  # argparse's own knows no exponents

    def error(self, message: str) -> NoReturn:
        """Say ``message`` in one line and end with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")

    def parse_args(  # type: ignore[override]  # argparse overloads it by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The arguments; those without a name may stand anywhere among the options."""
        return self.parse_intermixed_args(args, namespace)


def quiet() -> None:
    """Keep what other libraries tell their own developers off the terminal; before they are imported.

    ``python -W``, ``PYTHONWARNINGS`` and ``U2SEG_DEBUG=1`` show everything.
    """
    if set(sys.warnoptions) - {LEAKS} or os.environ.get(DEBUG_VARIABLE) == "1":
        return
    warnings.filterwarnings("ignore", module=rf"({_LIBRARIES.replace(' ', '|')})(\.|$)")
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.excepthook = _hook_of_living_readers


def _hook_of_living_readers(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody caught, unless it says that whoever was sent a tensor ended while taking it.

    A loader worker hands over tensors from a thread of `multiprocessing`, which calls ``sys.excepthook`` itself.
    """
    is_thread = threading.current_thread() is not threading.main_thread()
    if not (is_thread and isinstance(error, (EOFError, ConnectionError))):
        sys.__excepthook__(kind, error, trace)


class Stoppable:
    """A context in which the first Ctrl-C or SIGTERM raises `KeyboardInterrupt`, and a second Ctrl-C kills.

    ``code`` is 0, or the exit code of who was told to stop: 130 or 143.
    """

    def __init__(self) -> None:
        self.code = 0
        self._told_at = 0.0  # seconds, of `time.monotonic`
        self._ended = threading.Event()
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Stoppable:
        if self._in_main_thread:  # no other may set handlers
            numbers = [signal.SIGINT, signal.SIGTERM]
            ignored = [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]  # as by nohup
            self._before = {n: signal.signal(n, self._interrupt) for n in numbers if n not in ignored}
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._in_main_thread:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.code:  # what cleans up is not interrupted
            self.code = 128 + number
            raise KeyboardInterrupt

    def _watch(self, read: int) -> None:
        """Answer signals while the main thread is busy in compiled code, which no handler of Python's interrupts."""
        while received := os.read(read, 1):
            if received[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if not self._told_at:
                self._told_at = time.monotonic()
                threading.Thread(target=self._answer, daemon=True).start()
            elif received[0] == signal.SIGINT and time.monotonic() - self._told_at > SECONDS_TO_REPEAT:
                end_children(patience=0)
                os._exit(128 + signal.SIGINT)
        os.close(read)

    def _answer(self) -> None:
        if not self._ended.wait(SECONDS_TO_ANSWER):
            sys.stderr.write("stopping after the step that is running; Ctrl-C ends it at once\n")
            sys.stderr.flush()


def end_children(patience: float = SECONDS_TO_END) -> None:
    """End the processes that `multiprocessing` has started here; kill those left after ``patience`` seconds."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    end = time.monotonic() + patience
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
        if child.is_alive():
            child.kill()


def _forget_signals() -> None:
    """A forked child shares the pipe by which its parent hears of signals, and must not write into it."""
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_signals)
