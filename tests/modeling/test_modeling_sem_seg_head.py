"""Scores of stuff that are linear in the backbone's features: nothing at first, then what teaches the quickest."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.utils.events import EventStorage
from test_modeling_compat import batch, make

from u2seg.errors import UsageError
from u2seg.modeling.sem_seg_head import LinearScores

KEY = "MODEL.U2SEG.STUFF_FROM"


def test_the_scores_add_nothing_before_they_have_learnt():
    plain, linear = make(), make(KEY, "p4")
    missing = linear.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert set(missing) == {"sem_seg_head.linear.scores.weight", "sem_seg_head.linear.scores.bias"}
    with torch.no_grad():
        first, second = (model.eval()(batch())[0]["sem_seg"] for model in (plain, linear))
    assert torch.equal(first, second)
    with EventStorage():
        linear.train()(batch())["loss_sem_seg"].backward()
    assert linear.sem_seg_head.linear.scores.weight.grad.abs().sum() > 0


def test_a_cell_has_the_scores_of_its_own_features():
    linear = LinearScores("vit", ShapeSpec(8, stride=16), 3)
    torch.nn.init.normal_(linear.scores.weight)
    features = torch.randn(2, 8, 4, 5, generator=torch.Generator().manual_seed(0))
    scores = linear({"vit": features, "p2": None})
    assert scores.shape == (2, 3, 4, 5)
    cell = features[1, :, 2, 3]
    normalised = (cell - cell.mean()) / (cell.var(unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(scores[1, :, 2, 3], linear.scores.weight @ normalised, atol=1e-5)
    assert torch.allclose(linear({"vit": 7 * features}), scores, atol=1e-3)


def test_they_are_added_on_the_grid_of_the_pyramid():
    model = make(KEY, "p5").eval()
    head = model.sem_seg_head
    torch.nn.init.normal_(head.linear.scores.weight)
    with torch.no_grad():
        features = model.backbone(torch.randn(1, 3, 64, 96))
        features["p5"] = torch.randn(1, features["p5"].shape[1], 1, 1).expand_as(features["p5"])  # alike everywhere
        added = head.layers(features) - SemSegFPNHead.layers(head, features)
        expected = head.linear(features)[..., :1, :1]
    assert added.shape[2:] == features["p2"].shape[2:]
    assert torch.allclose(added, expected.expand_as(added), atol=1e-4)


def test_an_output_that_the_backbone_lacks_is_refused():
    with pytest.raises(UsageError, match=r"STUFF_FROM.*'vit'.*p2"):
        make(KEY, "vit")
