"""A tiny dataset and a run on it."""

import pytest
from synthetic_panoptic import write_dataset


@pytest.fixture
def labels(tmp_path):
    return write_dataset(tmp_path / "labels")


@pytest.fixture
def options(labels, tmp_path):
    """KEY VALUE pairs of a run on the tiny dataset."""
    return ["DATASETS.TRAIN", str(labels), "OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
