"""Ours beside plain Detectron2: the same parameters, outputs and losses."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from u2seg.engine.config import load_config

TINY = [
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FPN.OUT_CHANNELS", "32"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "5", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4", "MODEL.WEIGHTS", ""),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "60", "MODEL.RPN.POST_NMS_TOPK_TEST", "40", "MODEL.DEVICE", "cpu"),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "0.0"),
]
PLAIN = [
    *("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"),
]
BASE = "configs/Base-U2Seg.yaml"


def make(*options):
    from pathlib import Path

    torch.manual_seed(0)
    return build_model(load_config(str(Path(__file__).parents[2] / BASE), [*TINY, *options]))


@pytest.fixture(scope="module")
def models():
    ours, plain = make(), make(*PLAIN)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def batch(seed=0, void=False, things=(3, 2)):
    rng = np.random.default_rng(seed)
    samples = []
    for count in things:
        sem_seg = torch.full((64, 96), 255 if void else 2)
        masks = torch.zeros(count, 64, 96, dtype=torch.bool)
        boxes = torch.zeros(count, 4)
        for row in range(count):
            y, x = (int(part) for part in rng.integers(0, 30, 2))
            masks[row, y : y + 25, x : x + 30] = True
            boxes[row] = torch.tensor([x, y, x + 30, y + 25])
            sem_seg[masks[row]] = 255 if void else 0
        instances = Instances((64, 96))
        instances.gt_boxes, instances.gt_masks = Boxes(boxes), BitMasks(masks)
        instances.gt_classes = torch.from_numpy(rng.integers(0, 5, count))
        image = torch.from_numpy(rng.integers(0, 256, (3, 64, 96)).astype(np.uint8))
        samples.append({"image": image, "instances": instances, "sem_seg": sem_seg, "height": 48, "width": 72})
    return samples


def losses(model, samples, seed=0):
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(seed)
    with EventStorage():
        found = model(samples)
    sum(found.values()).backward()
    model.load_state_dict(before)
    return found


def test_parameters_are_named_alike_and_load_both_ways(models):
    ours, plain = models
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(a.shape == b.shape for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True))
    ours.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(ours.state_dict(), strict=True)


def test_predictions_are_identical(models):
    samples = batch()
    with torch.no_grad():
        results = [model.eval()(samples) for model in models]
    for ours, plain in zip(*results, strict=True):
        assert torch.equal(ours["sem_seg"], plain["sem_seg"])
        assert len(ours["instances"]) > 0
        for field, value in plain["instances"].get_fields().items():
            mine = ours["instances"].get(field)
            assert torch.equal(getattr(mine, "tensor", mine), getattr(value, "tensor", value))
        assert torch.equal(ours["panoptic_seg"][0], plain["panoptic_seg"][0])
        assert ours["panoptic_seg"][1] == plain["panoptic_seg"][1]


def test_losses_are_identical(models):
    found = [losses(model, batch()) for model in models]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_options_add_no_parameters():
    every = ["MODEL.U2SEG.DROP_LOSS_IOU", "0.01", "MODEL.U2SEG.IGNORE_UNLABELLED", "0.5"]
    assert list(make(*every).state_dict()) == list(make().state_dict())


@pytest.mark.parametrize("option", ["MODEL.U2SEG.DROP_LOSS_IOU", "MODEL.U2SEG.IGNORE_UNLABELLED"])
def test_ignored_regions_lower_the_class_loss_alone(models, option):
    other = make(option, "0.01")
    other.load_state_dict(models[0].state_dict())
    samples = batch(void=option.endswith("UNLABELLED"))
    fewer, plain = losses(other, samples), losses(models[0], samples)
    assert fewer["loss_cls_stage0"] < plain["loss_cls_stage0"]
    assert fewer["loss_box_reg_stage0"].item() == pytest.approx(plain["loss_box_reg_stage0"].item(), rel=1e-5)


@pytest.mark.parametrize("things", [(0, 2), (0, 0)])
def test_photos_without_things_and_without_any_label(models, things):
    options = ["MODEL.U2SEG.DROP_LOSS_IOU", "0.01", "MODEL.U2SEG.IGNORE_UNLABELLED", "0.5"]
    for model in (models[0], make(*options)):
        found = losses(model, batch(void=True, things=things))
        assert all(torch.isfinite(loss) for loss in found.values())
        assert found["loss_sem_seg"] == 0


def test_the_semantic_loss_of_a_stride_is_that_of_one_pixel_a_square(models):
    """At the head's own stride nothing is interpolated, and each cell answers to the pixel in its middle."""
    head = make("MODEL.U2SEG.SEM_SEG_LOSS_STRIDE", "4").sem_seg_head
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 4, 6, 5)).astype(np.float32))
    targets = torch.from_numpy(rng.choice([0, 1, 2, 3, 255], (2, 24, 20)))
    terms = []
    for photo, y, x in np.ndindex(2, 6, 5):
        label = int(targets[photo, 4 * y + 2, 4 * x + 2])
        if label != 255:
            terms.append(-float(logits[photo, :, y, x].log_softmax(dim=0)[label]))
    expected = head.loss_weight * np.mean(terms)
    assert head.losses(logits, targets)["loss_sem_seg"].item() == pytest.approx(expected, rel=1e-5)
    assert models[0].sem_seg_head.loss_stride == 1
