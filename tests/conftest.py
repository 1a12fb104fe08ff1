"""Options and fixtures of the whole suite."""

import contextlib
import logging
import os
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --runslow"))


@pytest.fixture(scope="session")
def labelled_photos() -> Path:
    """The folder of 100 COCO photos with human panoptic labels, or a skip that says why."""
    root = os.environ.get("U2SEG_DATA")
    if not root:
        pytest.skip("U2SEG_DATA is unset: it names the folder that holds coco_panoptic_100")
    return Path(root) / "coco_panoptic_100"


@contextlib.contextmanager
def loggers_restored():
    """Undo what Detectron2's `setup_logger` does to loggers: its handlers write to a stream that a test has closed."""
    loggers = [logging.getLogger(name) for name in ("", "u2seg", "detectron2", "fvcore")]
    before = [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    setup = sys.modules.get("detectron2.utils.logger")
    if setup is not None:
        # It remembers for which names it did its work, and would not do it again.
        setup.setup_logger.cache_clear()


@pytest.fixture(autouse=True)
def _restore_loggers():
    with loggers_restored():
        yield


@pytest.fixture(autouse=True, scope="module")
def _restore_loggers_of_fixtures():
    with loggers_restored():
        yield
