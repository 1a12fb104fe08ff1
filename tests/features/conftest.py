"""Tiny networks with random weights, saved as files, so that no test needs the hub."""

import pytest
import torch
from features_zoo import tiny


@pytest.fixture(scope="session")
def plain():
    return tiny("test_vit")


@pytest.fixture(scope="session")
def plain_file(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "plain.pth"
    torch.save(plain.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_rotary():
    return tiny("tiny_dinov3")
