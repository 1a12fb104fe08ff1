"""Options and fixtures of the whole suite."""

import os
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
