"""Scores of things against the definition: sure regions of several likely names stay, once, and come first."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from test_modeling_compat import batch, make

from u2seg.modeling.roi_heads import detect_objects, score_masks


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


def test_scores_of_masks_are_the_mean_probability_inside():
    rng = np.random.default_rng(0)
    masks, scores = rng.random((6, 1, 4, 4)).astype(np.float32), np.linspace(0.4, 0.9, 6, dtype=np.float32)
    masks[2] = 0.3  # nothing inside
    sure = [mask[mask > 0.5].mean() if (mask > 0.5).any() else 0 for mask in masks]
    expected = scores * sure
    scored = score_masks(Instances((8, 8), scores=torch.from_numpy(scores), pred_masks=torch.from_numpy(masks)))
    order = np.argsort(expected)[::-1]
    assert scored.scores.tolist() == pytest.approx(np.array(expected)[order].tolist(), abs=1e-6)
    assert np.array_equal(scored.pred_masks.numpy(), masks[order])
    assert scored.scores[-1] == 0


def test_a_model_with_mask_scores_finds_the_same_and_ranks_it_by_its_masks():
    plain, ranked = make(), make("MODEL.U2SEG.MASK_SCORES", "True")
    ranked.load_state_dict(plain.state_dict())
    with torch.no_grad():
        (first, _), (second, _) = (model.eval()(batch()) for model in (plain, ranked))
    boxes = [sorted(map(tuple, found["instances"].pred_boxes.tensor.tolist())) for found in (first, second)]
    scores = second["instances"].scores
    assert boxes[0] == boxes[1]
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert scores.max() < first["instances"].scores.max()
