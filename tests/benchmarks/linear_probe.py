"""Linear probe of a learned stuff segmenter: how much of the human classes its codes hold.

A multinomial logistic regression of standardised codes is learnt on every other photo of a labelled set, with the class
at the middle of each cell as target, and scored at pixels on the rest, both ways; the mean, in percent.

    python tools/benchmark.py linear_probe --checkpoint output/stego/stuff_final.pth --labels coco_panoptic_100 \
        --config-file configs/STEGO/stego_quick.yaml
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn.functional import cross_entropy, interpolate

from u2seg.config import part_args
from u2seg.engine.config import load_config
from u2seg.evaluation.matching import Taxonomy
from u2seg.images import enlarge, read_image
from u2seg.panoptic import read_panoptic
from u2seg.plugins.registry import installed_plugins
from u2seg.stego.evaluation import SUPERCATEGORIES, count_overlap, read_classes, semantic_scores
from u2seg.stego.head import read_checkpoint
from u2seg.structures import STUFF_VOID


def fit_linear(codes, truths, num_classes, seed=0, steps=300):
    """What labels codes float32 (E, h, w) at a size (H, W), learnt from ``codes`` and ``truths`` uint8 (H, W)."""
    X = torch.from_numpy(np.concatenate([code.reshape(len(code), -1).T for code in codes]))
    targets = [enlarge(truth, *code.shape[1:]).ravel() for code, truth in zip(codes, truths, strict=True)]
    y = torch.from_numpy(np.concatenate(targets).astype(np.int64))
    X, y = X[y != STUFF_VOID], y[y != STUFF_VOID]
    mean, deviation = X.mean(dim=0), X.std(dim=0) + 1e-6
    torch.manual_seed(seed)
    layer = torch.nn.Linear(X.shape[1], num_classes)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(layer((X - mean) / deviation), y).backward()
        optimizer.step()

    @torch.no_grad()
    def label(code, size):
        logits = layer((torch.from_numpy(code.reshape(len(code), -1).T) - mean) / deviation).T
        logits = logits.reshape(1, num_classes, *code.shape[1:])
        return interpolate(logits, size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0).byte().numpy()

    return label


def linear_scores(codes, truths, num_classes):
    """``pixel_accuracy`` and ``miou``, percent."""
    folds = []
    for start in (0, 1):
        label = fit_linear(codes[start::2], truths[start::2], num_classes)
        scored = zip(codes[1 - start :: 2], truths[1 - start :: 2], strict=True)
        tables = [count_overlap(label(code, truth.shape), truth, num_classes, num_classes) for code, truth in scored]
        folds.append(semantic_scores(np.sum(tables, axis=0), np.arange(num_classes)))
    return {key: float(np.mean([fold[key] for fold in folds])) for key in folds[0]}


def main(options):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--checkpoint", "--labels", "--config-file"):
        parser.add_argument(option, required=True)
    args = parser.parse_args(options)
    stuff = load_config(args.config_file).U2SEG.STUFF
    extractor = installed_plugins().offer("feature extractor", stuff.FEATURES.NAME).build(part_args(stuff.FEATURES))
    trained = read_checkpoint(args.checkpoint)
    offer = installed_plugins().offer("stuff segmenter", trained.method)
    segmenter = offer.build({"checkpoint": args.checkpoint}, {"num_classes": len(trained.centres)})
    labels = read_panoptic(args.labels)
    taxonomy = Taxonomy.of(labels, *SUPERCATEGORIES)
    codes, truths = [], []
    for photo in labels.photos:
        image = read_image(labels.photo_path(photo))
        codes.append(segmenter.codes(image, extractor.extract([image])[0]))
        truths.append(read_classes(labels, photo, taxonomy))
    scores = linear_scores(codes, truths, len(taxonomy))
    print(", ".join(f"{name} {value:.1f}" for name, value in scores.items()))
