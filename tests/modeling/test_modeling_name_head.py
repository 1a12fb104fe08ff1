"""The head of names: means inside masks, names of detections, and a loss that teaches them."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from test_modeling_compat import batch, make

from u2seg.errors import UsageError
from u2seg.modeling.name_head import CELLS, RIDGE, NameHead, fit_names

SIDE, STRIDE = 32, 16  # cells and pixels of a cell


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = NameHead("vit", ShapeSpec(8, stride=STRIDE), 3)
    torch.nn.init.normal_(made.scores.weight)
    return made


def detections(boxes, masks):
    return Instances((SIDE * STRIDE,) * 2, pred_boxes=Boxes(boxes), pred_masks=masks[:, None])


def score(head, features, boxes, masks):
    return head.scores(head.vectors({"vit": features}, [Boxes(boxes)], masks))


def scene(generator):
    """Features whose left and right half differ, and one region of both halves, of which the mask covers the left."""
    features = torch.randn(1, 8, 1, 2, generator=generator).repeat_interleave(SIDE // 2, 3).expand(1, 8, SIDE, SIDE)
    boxes = torch.tensor([[64.0, 64.0, 448.0, 448.0]])
    mask = torch.zeros(1, 2 * CELLS, 2 * CELLS)
    mask[..., : CELLS - 2] = 1  # away from the border between the halves, where cells mix
    return features, boxes, mask


def test_scores_are_of_the_mean_inside_the_mask(head):
    features, boxes, mask = scene(torch.Generator().manual_seed(1))
    norm = torch.nn.functional.layer_norm
    expected = head.scores(norm(norm(features[0, :, 0, 0], (8,)), (8,)))
    assert torch.allclose(score(head, features, boxes, mask)[0], expected, atol=1e-4)
    assert not torch.allclose(score(head, features, boxes, 1 - mask)[0], expected, atol=0.1)


def test_without_a_mask_the_box_counts(head):
    features, boxes, mask = scene(torch.Generator().manual_seed(1))
    empty, whole = torch.zeros_like(mask), torch.ones_like(mask)
    assert torch.allclose(score(head, features, boxes, empty), score(head, features, boxes, whole), atol=1e-4)


def test_detections_of_each_image_get_their_names(head):
    features = torch.randn(2, 8, SIDE, SIDE)
    boxes = torch.rand(5, 4) * 100 + torch.tensor([0.0, 0.0, 200.0, 200.0])
    masks = torch.rand(5, 28, 28)
    of_images = [detections(boxes[:2], masks[:2]), detections(boxes[2:], masks[2:])]
    head.rename({"vit": features}, of_images)
    for image, found in enumerate(of_images):
        scores = score(head, features[image : image + 1], found.pred_boxes.tensor, found.pred_masks[:, 0])
        assert torch.equal(found.pred_classes, scores.argmax(1))
    nothing = detections(boxes[:0], masks[:0])
    head.rename({"vit": features[:1]}, [nothing])
    assert nothing.pred_classes.shape == (0,)


def test_names_are_learnt():
    head = NameHead("vit", ShapeSpec(8, stride=STRIDE), 3)
    generator = torch.Generator().manual_seed(2)
    prototypes = torch.randn(3, 8, generator=generator)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    pixels = torch.zeros(1, SIDE * STRIDE, SIDE * STRIDE, dtype=torch.bool)
    pixels[:, 64:256, 64:256] = True
    losses = []
    for step in range(30):
        features = prototypes[step % 3][None, :, None, None] + torch.randn(1, 8, SIDE, SIDE, generator=generator) / 4
        regions = Instances((SIDE * STRIDE,) * 2, gt_boxes=Boxes([[64, 64, 256, 256]]))
        regions.gt_masks, regions.gt_classes = BitMasks(pixels), torch.tensor([step % 3])
        loss = head.losses({"vit": features}, [regions])["loss_name"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(3.0).log().item())
    assert sum(losses[-3:]) / 3 < 0.2


def test_an_image_without_things_has_no_loss(head):
    regions = Instances((SIDE * STRIDE,) * 2, gt_boxes=Boxes(torch.zeros(0, 4)))
    regions.gt_masks, regions.gt_classes = BitMasks(torch.zeros(0, 512, 512)), torch.zeros(0, dtype=torch.long)
    loss = head.losses({"vit": torch.randn(1, 8, SIDE, SIDE)}, [regions])["loss_name"]
    loss.backward()
    assert loss.item() == 0


def test_a_model_with_the_head_finds_the_same_regions_and_learns_their_names():
    plain, named = make(), make("MODEL.U2SEG.NAMES_FROM", "p4")
    missing = named.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert set(missing) == {"roi_heads.name_head.scores.weight", "roi_heads.name_head.scores.bias"}
    torch.nn.init.normal_(named.roi_heads.name_head.scores.weight)
    with torch.no_grad():
        first, second = (model.eval()(batch())[0]["instances"] for model in (plain, named))
    assert torch.equal(first.pred_masks, second.pred_masks)
    assert torch.equal(first.scores, second.scores)
    assert not torch.equal(first.pred_classes, second.pred_classes)
    with EventStorage():
        losses = named.train()(batch())
        assert losses.keys() - plain.train()(batch()).keys() == {"loss_name"}
    losses["loss_name"].backward()
    assert named.roi_heads.name_head.scores.weight.grad.abs().sum() > 0


def test_an_output_that_the_backbone_lacks_is_refused():
    with pytest.raises(UsageError, match=r"NAMES_FROM.*'vit'.*p2"):
        make("MODEL.U2SEG.NAMES_FROM", "vit")


def test_a_fit_is_the_least_of_its_loss_and_learns_what_steps_did_not():
    torch.manual_seed(3)
    head = NameHead("vit", ShapeSpec(8, stride=STRIDE), 3)
    classes = torch.arange(60) % 3
    vectors = torch.nn.functional.layer_norm(torch.randn(3, 8)[classes] + torch.randn(60, 8) / 4, (8,))
    assert head.fit(vectors, classes) > 0.95
    scores = head.scores
    loss = torch.nn.functional.cross_entropy(scores(vectors), classes) + RIDGE / 2 * scores.weight.square().sum()
    slopes = torch.autograd.grad(loss, list(scores.parameters()))
    assert max(slope.abs().max() for slope in slopes) < 1e-3
    before = scores.weight.clone()
    assert head.fit(vectors[:0], classes[:0]) == 0
    assert torch.equal(scores.weight, before)


def test_a_model_without_the_head_stays_as_it_is(caplog):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit_names(model, [batch()])
    assert "no head for names" in caplog.text
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
