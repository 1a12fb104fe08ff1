"""A tiny model with random weights of the right names: no published checkpoint can be had in a test."""

import json

import numpy as np
import torch

from u2seg.engine.config import fit_to_devices, load_config
from u2seg.evaluation.fitting import FORMAT

THINGS, STUFF = 5, 3
CONFIDENCE = 0.3
"""Some random detections have a higher score."""


def save_weights(config_file, path, *options, seed=4, large=False):
    """Write random weights for a config, with heads wild enough that many classes occur.

    A ``large`` model needs batch norms that fit its activations and calmer heads, or all scores would be alike.
    """
    from detectron2.modeling import build_model

    cfg = load_config(str(config_file), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    fit_to_devices(cfg, 1, has_gpu=False)
    torch.manual_seed(seed)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.weight.normal_(std=1.0)
        for stage in model.roi_heads.box_predictor:
            stage.cls_score.weight.normal_(std=0.004 if large else 0.5)
        if large:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            model.backbone.train()(torch.randn(2, 3, 128, 128))
    torch.save({"model": model.state_dict()}, path)
    return path


def make_photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 5, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
    noise = rng.integers(-20, 20, (height, width, 3))
    return np.clip(blocks[rows][:, columns] + noise, 0, 255).astype(np.uint8)


def save_matching(path, classes, policies):
    """Write a file as ``--save-matching`` does: ``policies`` name to {cluster: class or None}."""
    content = {
        "format": FORMAT,
        "classes": [{"name": name, "isthing": isthing} for name, isthing in classes],
        "policies": {
            name: {"class_of_cluster": {str(k): v for k, v in table.items()}, "counts": []}
            for name, table in policies.items()
        },
    }
    path.write_text(json.dumps(content))
    return path
