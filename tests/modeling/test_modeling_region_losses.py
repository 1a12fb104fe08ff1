"""DropLoss and ignored unlabelled regions against the definition, one region at a time."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from test_modeling_compat import batch, losses, make
from torch.nn import functional as F  # noqa: N812

from u2seg.modeling.roi_heads import COUNTS, mean_inside


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - inner)


def random_boxes(rng, count):
    corner = rng.integers(0, 30, (count, 2))
    return torch.from_numpy(np.hstack([corner, corner + rng.integers(1, 20, (count, 2))]).astype(np.float32))


@pytest.fixture(scope="module")
def heads():
    options = ["MODEL.U2SEG.DROP_LOSS_IOU", "0.1", "MODEL.U2SEG.IGNORE_UNLABELLED", "0.45"]
    return make(*options).roi_heads.train()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("things", [0, 1, 4])
def test_what_counts_equals_the_definition(seed, things, heads):
    """Proposals say what is unlabelled, predicted boxes what overlaps a label; without labels nothing is dropped."""
    rng = np.random.default_rng(seed)
    boxes, predicted, truth = random_boxes(rng, 40), random_boxes(rng, 40), random_boxes(rng, things)
    classes = rng.integers(0, 6, 40)
    void = rng.random((50, 50)) < 0.4
    regions, labels = Instances((50, 50)), Instances((50, 50))
    regions.proposal_boxes, regions.gt_classes = Boxes(boxes), torch.from_numpy(classes)
    labels.gt_boxes = Boxes(truth)
    heads._labels, heads.unlabelled = [labels], [torch.from_numpy(void)]
    counts = heads._counts(regions, Boxes(predicted), 0)
    for row, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        best = max((iou(predicted[row].tolist(), box.tolist()) for box in truth), default=1)
        is_void = classes[row] == heads.num_classes and void[y0:y1, x0:x1].mean() > 0.45
        assert bool(counts[row]) == (best > 0.1 and not is_void)


def test_losses_are_summed_over_what_counts_and_averaged_over_all():
    predictor = make("MODEL.U2SEG.DROP_LOSS_IOU", "0.1").roi_heads.box_predictor[0]
    rng = np.random.default_rng(0)
    regions = Instances((50, 50))
    regions.proposal_boxes, regions.gt_boxes = Boxes(random_boxes(rng, 30)), Boxes(random_boxes(rng, 30))
    regions.gt_classes = torch.from_numpy(rng.integers(0, 6, 30))
    counts = torch.from_numpy(rng.random(30) < 0.5)
    scores, deltas = torch.randn(30, 6), torch.randn(30, 4)
    with EventStorage():
        plain = predictor.losses((scores, deltas), [regions])
        regions.set(COUNTS, torch.ones(30, dtype=torch.bool))
        assert predictor.losses((scores, deltas), [regions]) == plain
        regions.set(COUNTS, counts)
        selected = predictor.losses((scores, deltas), [regions])
        regions.set(COUNTS, torch.zeros(30, dtype=torch.bool))
        assert all(loss == 0 for loss in predictor.losses((scores, deltas), [regions]).values())
    each = F.cross_entropy(scores, regions.gt_classes, reduction="none")
    assert selected["loss_cls"] == pytest.approx(((each * counts).sum() / 30).item(), rel=1e-5)
    goals = predictor.box2box_transform.get_deltas(regions.proposal_boxes.tensor, regions.gt_boxes.tensor)
    matched = counts & (regions.gt_classes < 5)
    box_loss = F.smooth_l1_loss(deltas, goals, reduction="none", beta=predictor.smooth_l1_beta or 1e-9).sum(dim=1)
    assert selected["loss_box_reg"] == pytest.approx(((box_loss * matched).sum() / 30).item(), rel=1e-4)


def test_drop_loss_looks_at_the_boxes_that_each_stage_predicts():
    """Boxes predicted far away from every label have no loss, wherever the proposals that they come from lie."""
    model = make("MODEL.U2SEG.DROP_LOSS_IOU", "0.01")
    for predictor in model.roi_heads.box_predictor:
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
        with torch.no_grad():  # ten widths and heights to the lower right
            predictor.bbox_pred.bias.copy_(torch.tensor([1000.0, 1000.0, 0.0, 0.0]))
    dropped = losses(model, batch())
    assert dropped["loss_cls_stage0"] == dropped["loss_box_reg_stage0"] == 0


def test_a_photo_without_labels_has_the_plain_loss():
    model, plain = make("MODEL.U2SEG.DROP_LOSS_IOU", "0.01"), make()
    plain.load_state_dict(model.state_dict())
    samples = batch(things=(0, 0))
    assert losses(model, samples) == losses(plain, samples)


def test_mean_inside_rounds_outwards_and_stays_inside():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 2:4] = True
    boxes = torch.tensor([[2.0, 1.0, 4.0, 3.0], [1.5, 0.2, 3.9, 2.8], [-9.0, -9.0, 99.0, 99.0], [7.0, 1.0, 9.0, 2.0]])
    assert mean_inside(mask, boxes).tolist() == pytest.approx([1.0, 4 / 9, 4 / 24, 0.0])
