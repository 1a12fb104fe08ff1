"""Scores of things against the definition: sure regions of several likely names stay, once, and come first."""

import numpy as np
import pytest
import torch
from test_modeling_compat import batch, make

from u2seg.modeling.roi_heads import detect_objects


def box_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


@pytest.mark.parametrize("seed", range(5))
def test_detections_are_the_definition_one_region_at_a_time(seed):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (40, 2))
    boxes = np.hstack([corner, corner + rng.integers(5, 20, (40, 2))]).astype(np.float32)
    scores = rng.dirichlet(np.full(6, 0.5), 40).astype(np.float32)
    kept = []
    for row in sorted(range(40), key=lambda row: scores[row, -1]):
        if scores[row, -1] < 0.7 and all(box_iou(boxes[row], boxes[other]) <= 0.5 for other in kept):
            kept.append(row)
    arguments = [torch.from_numpy(boxes)], [torch.from_numpy(scores)], [(60, 60)], 0.3, 0.5, 8
    (detected,) = detect_objects(*arguments)
    assert 2 < len(detected) == min(len(kept), 8)
    assert np.array_equal(detected.pred_boxes.tensor.numpy(), boxes[kept[:8]])
    assert detected.scores.numpy() == pytest.approx(1 - scores[kept[:8], -1], abs=1e-6)
    assert detected.pred_classes.tolist() == scores[kept[:8], :-1].argmax(axis=1).tolist()


def test_a_model_finds_the_same_regions_and_names_each_once():
    plain, objects = make(), make("MODEL.U2SEG.OBJECT_SCORES", "True")
    objects.load_state_dict(plain.state_dict())
    with torch.no_grad():
        (first, _), (second, _) = (model.eval()(batch()) for model in (plain, objects))
    boxes = second["instances"].pred_boxes.tensor.tolist()
    assert 0 < len(boxes) == len({tuple(box) for box in boxes})
    assert len({tuple(box) for box in first["instances"].pred_boxes.tensor.tolist()}) < len(first["instances"])
    assert second["instances"].scores.max() > first["instances"].scores.max()
    assert torch.equal(first["sem_seg"], second["sem_seg"])
