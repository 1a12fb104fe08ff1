"""Weights of regions against the definition, one region at a time."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from u2seg.modeling.weighting import RegionWeighting, mean_inside


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inner / (sum(area) - inner)


def random_boxes(rng, count):
    corner = rng.integers(0, 30, (count, 2))
    return np.hstack([corner, corner + rng.integers(1, 20, (count, 2))]).astype(np.float32)


def regions(boxes, classes):
    found = Instances((50, 50))
    found.proposal_boxes, found.gt_classes = Boxes(torch.from_numpy(boxes)), torch.from_numpy(classes)
    return found


def labels(boxes, scores):
    found = Instances((50, 50))
    found.gt_boxes, found.gt_scores = Boxes(torch.from_numpy(boxes)), torch.from_numpy(scores)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("things", [0, 1, 4])
def test_equals_the_definition(seed, things):
    rng = np.random.default_rng(seed)
    boxes, truth = random_boxes(rng, 40), random_boxes(rng, things)
    scores = rng.random(things).astype(np.float32)
    best = np.array([[iou(box, label) for label in truth] for box in boxes]).reshape(40, things)
    top = best.max(axis=1) if things else np.zeros(40)
    classes = np.where(top > 0.3, 1, 3)
    void = rng.random((50, 50)) < 0.4
    weighting = RegionWeighting(0.1, 0.45)
    found = weighting.weigh(regions(boxes, classes), labels(truth, scores), 3, torch.from_numpy(void))
    for row, (x0, y0, x1, y1) in enumerate(boxes.astype(int)):
        wanted = 1.0
        if classes[row] != 1 and void[y0:y1, x0:x1].mean() > 0.45:
            wanted = 0.0
        if top[row] <= 0.1:
            wanted = 0.0
        assert found[row] == pytest.approx(wanted)


def test_off_by_default():
    assert not RegionWeighting().is_used
    assert (
        RegionWeighting().weigh(
            regions(random_boxes(np.random.default_rng(0), 5), np.full(5, 3)),
            labels(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)),
            3,
            None,
        )
        == 1
    ).all()


def test_mean_inside_rounds_outwards_and_stays_inside():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 2:4] = True
    boxes = torch.tensor([[2.0, 1.0, 4.0, 3.0], [1.5, 0.2, 3.9, 2.8], [-9.0, -9.0, 99.0, 99.0], [7.0, 1.0, 9.0, 2.0]])
    assert mean_inside(mask, boxes).tolist() == pytest.approx([1.0, 4 / 9, 4 / 24, 0.0])
