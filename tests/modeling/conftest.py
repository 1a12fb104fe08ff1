"""A tiny ViT with random weights, saved as a file."""

import pytest
import timm
import torch


def save_tiny(path, seed):
    torch.manual_seed(seed)
    network = timm.create_model("test_vit", pretrained=False, num_classes=0, dynamic_img_size=True)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def vit_files(tmp_path_factory):
    """Two files of weights of timm's ``test_vit``: 64 channels, 6 blocks, patches of 16 pixels."""
    folder = tmp_path_factory.mktemp("vit")
    return [save_tiny(folder / f"{seed}.pth", seed) for seed in (0, 1)]
