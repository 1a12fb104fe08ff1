"""Fixtures of the tiny model."""

import types

import pytest
from predictor_model import CONFIDENCE, STUFF, THINGS, make_photo, save_weights
from synthetic_panoptic import QUICK_CONFIG


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Config, weights and the ``KEY VALUE`` pairs that go with them."""
    weights = tmp_path_factory.mktemp("model") / "tiny.pth"
    counts = ["MODEL.ROI_HEADS.NUM_CLASSES", str(THINGS), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(STUFF + 1)]
    save_weights(QUICK_CONFIG, weights, *counts)
    return types.SimpleNamespace(config=str(QUICK_CONFIG), weights=str(weights))


@pytest.fixture(scope="session")
def predictor(tiny):
    from u2seg.engine.predictor import Predictor

    return Predictor.from_config(tiny.config, tiny.weights, confidence=CONFIDENCE, device="cpu")


@pytest.fixture(scope="session")
def photo():
    """uint8 (60, 80, 3) RGB: blocks of colour with a little noise."""
    return make_photo(60, 80)
