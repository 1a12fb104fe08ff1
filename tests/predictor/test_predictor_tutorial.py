"""The steps that users of the released model follow, with their imports or the script's path alone changed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predictor_model import CONFIDENCE, STUFF, THINGS, save_weights

ROOT = Path(__file__).parents[2]
EVAL_300 = ROOT / "configs" / "COCO-PanopticSegmentation" / "u2seg_eval_300.yaml"


def detectron2_get_cfg():
    from detectron2.config import get_cfg

    return get_cfg()


def our_get_cfg():
    from u2seg.engine.config import get_cfg

    return get_cfg()


@pytest.fixture
def tiny_eval(tiny, tmp_path):
    """A config like u2seg_eval_300.yaml, for the tiny model."""
    path = tmp_path / "u2seg_eval_tiny.yaml"
    path.write_text(
        f'_BASE_: "{tiny.config}"\nMODEL:\n  WEIGHTS: "{tiny.weights}"\n  ROI_HEADS: {{NUM_CLASSES: {THINGS}}}\n'
        f"  SEM_SEG_HEAD: {{NUM_CLASSES: {STUFF + 1}}}\n"
    )
    return path


def tutorial(get_cfg, config, weights, photo, output, threshold):
    from detectron2.data.detection_utils import read_image

    from u2seg.engine.predictor import VisualizationDemo

    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = threshold
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = threshold
    cfg.freeze()
    demo = VisualizationDemo(cfg)
    img = read_image(str(photo), format="BGR")
    predictions, visualized_output = demo.run_on_image(img)
    visualized_output.save(str(output))
    return demo, predictions, visualized_output


@pytest.mark.parametrize("get_cfg", [detectron2_get_cfg, our_get_cfg])
def test_the_tutorial_in_python(get_cfg, tiny, tiny_eval, photo, tmp_path, predictor):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    demo, predictions, drawn = tutorial(
        get_cfg, tiny_eval, tiny.weights, tmp_path / "photo.png", tmp_path / "out.png", CONFIDENCE
    )
    expected = predictor(photo)
    ids, info = predictions["panoptic_seg"]
    np.testing.assert_array_equal(ids.numpy(), expected.panoptic)
    assert len(info) == len(expected.segments)
    with Image.open(tmp_path / "out.png") as picture:
        np.testing.assert_array_equal(np.array(picture), drawn.get_image())
    assert demo.metadata.thing_classes == ["1", "2", "3", "4", "5"]
    assert demo.metadata.stuff_classes == ["things", "6", "7", "8"]


def test_the_demo_and_its_predictor_are_used_as_detectron2s(tiny, tiny_eval, photo):
    from detectron2.engine import DefaultPredictor
    from detectron2.utils.visualizer import ColorMode

    from u2seg.engine.predictor import VisualizationDemo

    cfg = detectron2_get_cfg()
    cfg.merge_from_file(str(tiny_eval))
    demo = VisualizationDemo(cfg, ColorMode.IMAGE_BW, False)
    bgr = np.ascontiguousarray(photo[:, :, ::-1])
    predictions, grey = demo.run_on_image(bgr)
    assert isinstance(demo.predictor, DefaultPredictor)
    np.testing.assert_array_equal(demo.predictor(bgr)["panoptic_seg"][0], predictions["panoptic_seg"][0])
    np.testing.assert_array_equal(
        DefaultPredictor(demo.predictor.cfg)(bgr)["panoptic_seg"][0], predictions["panoptic_seg"][0]
    )
    colourful = VisualizationDemo(cfg, instance_mode=ColorMode.IMAGE, parallel=False).run_on_image(bgr)[1]
    segmented = predictions["panoptic_seg"][0].numpy() > 0
    np.testing.assert_array_equal(np.array(grey.get_image())[segmented], colourful.get_image()[segmented])


def test_predictions_suit_detectron2s_visualizer(tiny, tiny_eval, photo, tmp_path):
    from detectron2.utils.visualizer import Visualizer

    Image.fromarray(photo).save(tmp_path / "photo.png")
    demo, predictions, _ = tutorial(
        detectron2_get_cfg, tiny_eval, tiny.weights, tmp_path / "photo.png", tmp_path / "out", CONFIDENCE
    )
    assert (tmp_path / "out.png").exists()  # without an ending it is a PNG, as matplotlib has it
    ids, info = predictions["panoptic_seg"]
    drawn = Visualizer(photo, demo.metadata).draw_panoptic_seg_predictions(ids, info).get_image()
    assert drawn.shape == photo.shape


def test_the_published_configs_need_no_key_of_ours(tmp_path):
    for name in ("u2seg_eval_300", "u2seg_eval_800"):
        cfg = detectron2_get_cfg()
        cfg.merge_from_file(str(EVAL_300.with_name(f"{name}.yaml")))
        assert str(cfg.MODEL.ROI_HEADS.NUM_CLASSES) in name
        assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 28


def test_the_demo_command(tiny, tiny_eval, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "test_image.jpg")
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--config-file", str(tiny_eval)]
    command += ["--input", "test_image.jpg", "--output", "results/demo", "--opts", "MODEL.WEIGHTS", tiny.weights]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "segmented 1 photo, see results/demo/test_image.jpg" in done.stdout
    assert "Warning" not in done.stderr
    assert "torch" not in done.stderr
    with Image.open(tmp_path / "results" / "demo" / "test_image.jpg") as picture:
        assert picture.size == (photo.shape[1], photo.shape[0])


@pytest.mark.slow
def test_the_tutorial_with_the_model_of_300_classes(tmp_path, photo):
    """Random weights under the published names; the published file itself can't be had in a test."""
    weights = save_weights(EVAL_300, tmp_path / "cocotrain_300_0089999.pth", large=True)
    Image.fromarray(photo).resize((320, 240)).save(tmp_path / "photo.jpg")
    demo, predictions, _ = tutorial(
        detectron2_get_cfg, EVAL_300, weights, tmp_path / "photo.jpg", tmp_path / "out.png", 0.25
    )
    assert (demo.predictor.space.num_things, demo.predictor.space.num_stuff) == (300, 27)
    assert demo.metadata.thing_classes[-1] == "300"
    assert demo.metadata.stuff_classes[1] == "301"
    assert predictions["panoptic_seg"][0].shape == (240, 320)
