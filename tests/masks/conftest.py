"""The oracle, and photos that scikit-image and scikit-learn ship."""

import importlib.util
from pathlib import Path

import pytest


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def literal():
    """The slow, obvious MaskCut."""
    return _load(Path(__file__).parents[1] / "oracles" / "maskcut_literal.py")


@pytest.fixture(scope="session")
def photos():
    """Photos uint8 (H, W, 3) by name, from scikit-image and scikit-learn."""
    data = pytest.importorskip("skimage.data")
    datasets = pytest.importorskip("sklearn.datasets")
    shipped = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    return shipped | {name: datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
