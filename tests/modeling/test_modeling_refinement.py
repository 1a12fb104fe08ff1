"""Predictions that are brought to the edges of the photo: they follow the edges, and nothing else changes."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from test_modeling_compat import batch, make

from u2seg.modeling.panoptic_fpn import mean_inside_masks, photo_of, refine_detections, refined_stuff
from u2seg.pseudo.refine.densecrf import BilateralRefiner


def disc(height, width, radius, row=40, column=60):
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def detections(*masks):
    return Instances(masks[0].shape, pred_masks=torch.from_numpy(np.stack(masks)))


def test_a_rough_mask_follows_the_edge_and_an_empty_one_stays():
    thing = disc(80, 120, 20)
    photo = np.where(thing[..., None], (200, 60, 40), (30, 90, 160)).astype(np.uint8)
    square = np.zeros_like(thing)
    square[22:58, 42:78] = True
    found = detections(square, np.zeros_like(square))
    refine_detections(BilateralRefiner(), photo, found)
    refined, empty = found.pred_masks.numpy()
    assert iou(square, thing) < 0.9
    assert iou(refined, thing) > 0.93
    assert not empty.any()


def test_rough_stuff_follows_the_edge():
    lake = disc(80, 120, 30)
    photo = np.where(lake[..., None], (200, 60, 40), (30, 90, 160)).astype(np.uint8)
    rough = disc(80, 120, 30, row=44, column=63)
    logits = torch.from_numpy(np.stack([np.full(rough.shape, -9), 2 - 4 * rough, 4 * rough - 2])).float()
    refined = refined_stuff(BilateralRefiner(), photo, logits).numpy()
    assert refined.dtype == np.int64
    assert set(np.unique(refined)) == {1, 2}
    assert iou(refined == 2, lake) > iou(rough, lake) + 0.05


def test_stuff_as_labels_have_it_is_everywhere_and_on_no_small_share():
    """A puddle in a meadow, both beside what the head takes for a thing: the puddle covers 4 % of the photo."""
    puddle, thing = disc(80, 120, 11, column=25), disc(80, 120, 25, column=85)
    photo = np.array([(30, 90, 160), (200, 60, 40), (20, 220, 30)], np.uint8)[puddle + 2 * thing]
    logits = np.stack([9.0 * thing, np.full(thing.shape, 3.0), 6.0 * puddle, np.full(thing.shape, -3.0)])
    likeliest, kept, dropped, alone = (
        refined_stuff(BilateralRefiner(), photo, torch.from_numpy(logits).float(), share).numpy()
        for share in (0.0, 0.03, 0.1, 1.0)
    )
    assert iou(likeliest == 0, thing) > 0.9
    assert iou(kept == 2, puddle) > 0.8
    assert set(np.unique(kept)) == {1, 2}
    assert (dropped[puddle] == 1).mean() > 0.99
    assert (alone == alone[0, 0]).all()


def test_a_score_is_multiplied_by_what_the_semantic_head_says_of_the_mask():
    values = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    masks = torch.tensor([[[True, True], [False, False]], [[False, False], [True, False]], [[False] * 2] * 2])
    assert mean_inside_masks(values, masks).tolist() == [0.5, 1.0, 0.0]
    assert mean_inside_masks(values, masks[:0]).shape == (0,)
    plain, weighed = make(), make("MODEL.U2SEG.THING_SCORES", "True")
    weighed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        before, after = (model.eval()(batch())[0] for model in (plain, weighed))
    things = before["sem_seg"].softmax(dim=0)[0]
    expected = before["instances"].scores * mean_inside_masks(things, before["instances"].pred_masks)
    assert torch.allclose(after["instances"].scores, expected)
    assert not torch.equal(after["instances"].scores, before["instances"].scores)


def test_the_photo_of_a_model_s_input_may_have_another_size_and_order():
    image = torch.arange(3 * 4 * 6).reshape(3, 4, 6).float()
    photo = photo_of(image, "RGB", (8, 12))
    assert photo.shape == (8, 12, 3)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo_of(image.flip(0), "BGR", (8, 12)), photo)
    assert np.array_equal(photo_of(image, "RGB", (4, 6)), image.permute(1, 2, 0).numpy())


def test_a_mask_that_would_become_another_stays():
    """On a photo of noise with a mask that is a single line there is nothing to hold on to."""
    line = np.zeros((40, 40), bool)
    line[20] = True
    found = detections(line)
    refine_detections(BilateralRefiner(), np.full((40, 40, 3), 128, np.uint8), found)
    assert np.array_equal(found.pred_masks.numpy()[0], line)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_model_refines_its_masks_and_paints_them(channels):
    plain, refining = (
        make("INPUT.FORMAT", channels, "MODEL.U2SEG.REFINE", value, "U2SEG.REFINE.NAME", "bilateral")
        for value in ("False", "True")
    )
    refining.load_state_dict(plain.state_dict())  # the refiner has no weights
    with torch.no_grad():
        (before, _), (after, _) = (model.eval()(batch()) for model in (plain, refining))
    first, second = before["instances"], after["instances"]
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(before["sem_seg"], after["sem_seg"])
    assert not torch.equal(first.pred_masks, second.pred_masks)
    ids, segments = after["panoptic_seg"]
    assert [segment["instance_id"] for segment in segments if segment["isthing"]]
    for segment in segments:
        if segment["isthing"]:
            assert not (ids == segment["id"])[~second.pred_masks[segment["instance_id"]]].any()
