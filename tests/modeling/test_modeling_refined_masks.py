"""Masks of detections that are brought to the edges of the photo: they follow the edges, and nothing else changes."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from test_modeling_compat import batch, make

from u2seg.modeling.panoptic_fpn import refine_detections
from u2seg.pseudo.refine.bilateral import BilateralRefiner


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
    refine_detections(BilateralRefiner(), torch.from_numpy(photo).permute(2, 0, 1), found)
    refined, empty = found.pred_masks.numpy()
    assert iou(square, thing) < 0.9
    assert iou(refined, thing) > 0.93
    assert not empty.any()


def test_the_photo_may_have_another_size_than_the_masks():
    thing = disc(80, 120, 20)
    photo = np.where(thing[..., None], (200, 60, 40), (30, 90, 160)).astype(np.uint8)[::2, ::2]
    rough = disc(80, 120, 23, row=42)
    found = detections(rough.copy())
    refine_detections(BilateralRefiner(), torch.from_numpy(photo.copy()).permute(2, 0, 1), found)
    assert iou(found.pred_masks.numpy()[0], thing) > iou(rough, thing) + 0.05


def test_a_mask_that_would_become_another_stays():
    """On a photo of noise with a mask that is a single line there is nothing to hold on to."""
    line = np.zeros((40, 40), bool)
    line[20] = True
    photo = np.full((3, 40, 40), 128, np.uint8)
    found = detections(line)
    refine_detections(BilateralRefiner(), torch.from_numpy(photo), found)
    assert np.array_equal(found.pred_masks.numpy()[0], line)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_model_refines_its_masks_and_paints_them(channels):
    plain, refining = (
        make("INPUT.FORMAT", channels, "MODEL.U2SEG.REFINE_MASKS", value, "U2SEG.REFINE.NAME", "bilateral")
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
