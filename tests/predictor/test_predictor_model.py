"""`Predictor`: beside Detectron2's own predictor, and on what users get wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image
from predictor_model import CONFIDENCE, STUFF, THINGS, make_photo

from u2seg.engine.config import load_config, set_confidence
from u2seg.engine.predictor import Predictor
from u2seg.errors import DataError, UsageError
from u2seg.structures import PanopticLabel


def test_it_says_what_detectron2s_own_predictor_says(predictor, photo):
    cfg = predictor.cfg.clone()
    expected = DefaultPredictor(cfg)(photo[:, :, ::-1])
    found = predictor(photo)
    ids, info = expected["panoptic_seg"]
    np.testing.assert_array_equal(found.panoptic, ids.numpy())
    assert [s.id for s in found.segments] == [s["id"] for s in info]
    assert [s.isthing for s in found.segments] == [s["isthing"] for s in info]
    shift = {True: 1, False: THINGS}
    assert [s.category_id for s in found.segments] == [s["category_id"] + shift[s["isthing"]] for s in info]
    np.testing.assert_array_equal(found.instances.masks, expected["instances"].pred_masks.numpy())
    np.testing.assert_array_equal(found.instances.category_ids, expected["instances"].pred_classes.numpy() + 1)
    np.testing.assert_array_equal(found.instances.boxes, expected["instances"].pred_boxes.tensor.numpy())
    assert len({s.category_id for s in found.segments}) > 3  # else the test would show little


def test_the_result_keeps_its_contract(predictor, photo):
    found = predictor(photo)
    PanopticLabel(found.panoptic, found.segments)  # raises where segments and map disagree
    assert found.panoptic.dtype == np.int32
    assert found.panoptic.shape == photo.shape[:2]
    probabilities = torch.softmax(predictor.predict([photo])[0]["sem_seg"], 0).numpy()
    for segment in found.segments:
        mask = found.panoptic == segment.id
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert segment.area == mask.sum()
        assert segment.bbox == box
        assert segment.name == str(segment.category_id)
        assert segment.isthing == (segment.category_id <= THINGS)
        if not segment.isthing:
            assert segment.score == pytest.approx(probabilities[segment.category_id - THINGS][mask].mean(), abs=1e-5)
    things = found.instances
    assert things.masks.dtype == bool
    assert things.masks.shape == (len(things), *photo.shape[:2])
    assert (things.scores >= CONFIDENCE).all()
    assert (np.diff(things.scores) <= 0).all()
    assert things.names == tuple(map(str, things.category_ids))
    assert f"{photo.shape[1]} x {photo.shape[0]} pixels" in repr(found)


def test_a_photo_is_a_path_an_array_or_a_picture(predictor, photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    expected = predictor(photo).panoptic
    for given in (path, str(path), Image.fromarray(photo)):
        np.testing.assert_array_equal(predictor(given).panoptic, expected)


def test_a_model_for_bgr_gets_bgr(tiny, photo):
    # the weights do not know the order, so mirrored channels must give the same as mirrored input
    made = {
        order: Predictor.from_config(tiny.config, tiny.weights, confidence=CONFIDENCE, opts=["INPUT.FORMAT", order])
        for order in ("RGB", "BGR")
    }
    mirrored = np.ascontiguousarray(photo[:, :, ::-1])
    np.testing.assert_array_equal(made["BGR"](mirrored).panoptic, made["RGB"](photo).panoptic)
    assert (made["BGR"](photo).panoptic != made["RGB"](photo).panoptic).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (257, 2)])
def test_a_photo_may_have_any_size(predictor, size):
    assert predictor(make_photo(*size)).panoptic.shape == size


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"not uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "not float32"),
        (np.zeros((0, 4, 3), np.uint8), r"with a pixel at least, not uint8 \(0, 4, 3\)"),
        ("nowhere.jpg", "photo nowhere.jpg: can't be read"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_image_is_refused(predictor, image, message):
    with pytest.raises(DataError, match=message):
        predictor(image)


def test_the_callers_config_stays_as_it_was(tiny):
    cfg = load_config(tiny.config, ["MODEL.WEIGHTS", tiny.weights])
    cfg.freeze()
    before = cfg.dump()
    made = Predictor(cfg)
    assert cfg.dump() == before
    assert cfg.is_frozen()
    assert (made.space.num_things, made.space.num_stuff) == (THINGS, STUFF)  # counted off the weights


def _changed(tiny, path, change):
    content = torch.load(tiny.weights, weights_only=True)
    change(content["model"])
    torch.save(content, path)
    return str(path)


def test_each_thing_wrong_with_the_weights_is_one_line(tiny, tmp_path):
    def refusal(weights, *opts):
        with pytest.raises((DataError, UsageError)) as caught:
            Predictor.from_config(tiny.config, weights, opts=opts)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    counts = ["MODEL.ROI_HEADS.NUM_CLASSES", "7", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(STUFF + 1)]
    assert "are made for 5 thing classes, but the model has 7" in refusal(tiny.weights, *counts)
    counts = ["MODEL.ROI_HEADS.NUM_CLASSES", str(THINGS), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9"]
    assert "are made for 4 semantic classes, but the model has 9" in refusal(tiny.weights, *counts)
    assert "MODEL.WEIGHTS is empty" in refusal("")
    assert "gone.pth' do not exist" in refusal(str(tmp_path / "gone.pth"))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(Path(tiny.weights).read_bytes()[:5000])
    assert "broken.pth " in refusal(str(broken))
    key = "roi_heads.mask_head.deconv.weight"
    partial = _changed(tiny, tmp_path / "partial.pth", lambda state: state.pop(key))
    assert f"{key} is missing" in refusal(partial)
    widened = _changed(tiny, tmp_path / "wide.pth", lambda state: state.update({key: torch.zeros(1, 2, 3, 4)}))
    assert f"{key} is of another shape" in refusal(widened)


def test_a_backbone_is_no_trained_model(tiny, tmp_path):
    def backbone_only(state):
        for key in [key for key in state if not key.startswith("backbone.bottom_up")]:
            del state[key]

    weights = _changed(tiny, tmp_path / "backbone.pth", backbone_only)
    counts = ["MODEL.ROI_HEADS.NUM_CLASSES", str(THINGS), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(STUFF + 1)]
    with pytest.raises(DataError, match=r"are no trained model of this config: .* is missing"):
        Predictor.from_config(tiny.config, weights, opts=counts)
    with pytest.raises(UsageError, match="number of classes is unknown"):
        Predictor.from_config(tiny.config, weights)


def test_configs_that_can_not_segment_are_refused(tiny):
    def make(*opts, **more):
        return Predictor.from_config(tiny.config, tiny.weights, opts=opts, **more)

    with pytest.raises(UsageError, match=r"no panoptic model .* named 'GeneralizedRCNN'"):
        make("MODEL.META_ARCHITECTURE", "GeneralizedRCNN")
    with pytest.raises(UsageError, match="MASK_ON"):
        make("MODEL.MASK_ON", "False")
    with pytest.raises(UsageError, match="'gpu' is no device"):
        make(device="gpu")
    with pytest.raises(UsageError, match=r"no INPUT\.FORMAT named 'L'"):
        make("INPUT.FORMAT", "L")
    with pytest.raises(UsageError, match="confidence threshold must be a number from 0 to 1, not 50"):
        make(confidence=50)


def test_one_confidence_sets_three_keys(tiny):
    cfg = load_config(tiny.config)
    set_confidence(cfg, 0.25)
    assert cfg.MODEL.RETINANET.SCORE_THRESH_TEST == 0.25
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.25
    assert cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH == 0.25
