"""Every shipped config loads, says what the paper says, and mistakes end in words."""

from pathlib import Path

import pytest

from u2seg.config import add_u2seg_config
from u2seg.engine import config
from u2seg.engine.config import fit_to_devices, get_cfg, load_config
from u2seg.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"
TRAINING = sorted([*CONFIGS.glob("COCO-PanopticSegmentation/*.yaml"), *CONFIGS.glob("quick_schedules/*.yaml")])


def leaf(name):
    return str(CONFIGS / "COCO-PanopticSegmentation" / name)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_leaves_load_and_are_short(path):
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE == "U2SegPanopticFPN"
    assert cfg.INPUT.FORMAT == "RGB"
    assert "_BASE_" in path.read_text()
    assert len(path.read_text().splitlines()) <= 25


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_detectron2s_own_way_loads_them_too(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert cfg == load_config(str(path))


@pytest.mark.parametrize("clusters", [300, 800])
@pytest.mark.parametrize("kind", ["R50", "eval"])
def test_the_papers_settings(clusters, kind):
    cfg = load_config(leaf(f"u2seg_{kind}_{clusters}.yaml"))
    assert clusters == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 28
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.BACKBONE.FREEZE_AT) == ("SyncBN", "SyncBN", 0)
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert (cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.NMS_THRESH) == (4000, 0.65)
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT == 0.5
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WEIGHT_DECAY) == (0.01, 16, 5e-5)
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    assert (cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE) == ("norm", 1.0)
    assert cfg.SOLVER.AMP.ENABLED
    assert (min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)) == (240, 1024)
    off = cfg.MODEL.U2SEG
    assert not any([off.DROP_LOSS_IOU, off.IGNORE_UNLABELLED, cfg.INPUT.COPY_PASTE.ENABLED])


def test_a_stock_config_of_detectron2_keeps_its_class_counts():
    """Only configs that ask for it (0, as the base YAML says) take class counts from data."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"))
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (80, 54)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = (
        "cpu",
        "",
        18,
        64,
    )
    model = build_model(cfg)
    assert model.roi_heads.box_predictor.cls_score.out_features == 81
    assert model.sem_seg_head.predictor.out_channels == 54
    ours = load_config(leaf("u2seg_R18_small.yaml"))
    assert (ours.MODEL.ROI_HEADS.NUM_CLASSES, ours.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (0, 0)


def test_keys_of_the_label_factory_are_read_by_the_same_rules():
    options = ["U2SEG.FEATURES.ARGS.vit.weights", "x.pth", "U2SEG.MASKS.ARGS.maskcut.tau", "1e-8"]
    cfg = load_config(options=[*options, "U2SEG.CLUSTERS.REUSE", "2024-01-05"])
    assert cfg.U2SEG.FEATURES.ARGS.vit.weights == "x.pth"
    assert cfg.U2SEG.MASKS.ARGS.maskcut.tau == 1e-8
    assert cfg.U2SEG.CLUSTERS.REUSE == "2024-01-05"


def test_adding_the_keys_again_changes_nothing():
    cfg = get_cfg()
    cfg.INPUT.COPY_PASTE.ENABLED = True
    add_u2seg_config(cfg)
    assert cfg.INPUT.COPY_PASTE.ENABLED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["SOLVER.BASE_LRR", "1"], "no config key 'SOLVER.BASE_LRR' .*Did you mean 'BASE_LR'"),
        (["SOLVER.BASE_LR"], "'SOLVER.BASE_LR' has no value"),
        (["SOLVER.BASE_LR", "fast"], "must be float"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        load_config(options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MODEL: {WEIGHT: 1}", "no config key 'MODEL.WEIGHT' .*Did you mean 'WEIGHTS'"),
        ("MODEL: [", "a.yaml "),
        ("_BASE_: gone.yaml", "gone.yaml"),
        ("- 1", "a.yaml "),
    ],
)
def test_wrong_files(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_config(str(tmp_path / "a.yaml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="does not exist"):
        load_config(str(tmp_path / "b.yaml"))


@pytest.mark.parametrize(
    ("world", "gpu", "norm", "amp", "device"),
    [
        (1, False, "BN", False, "cpu"),
        (2, False, "naiveSyncBN", False, "cpu"),
        (1, True, "BN", True, "cuda"),
        (8, True, "SyncBN", True, "cuda"),
    ],
)
def test_fits_to_devices_and_says_so(world, gpu, norm, amp, device, caplog, monkeypatch):
    monkeypatch.setattr(config, "cpu_has_bfloat16", lambda: False)
    cfg = load_config(leaf("u2seg_R50_300.yaml"))
    with caplog.at_level("INFO"):
        fit_to_devices(cfg, world, gpu)
    assert (norm, norm) == (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM)
    assert (amp, device) == (cfg.SOLVER.AMP.ENABLED, cfg.MODEL.DEVICE)
    assert (f"SyncBN becomes {norm}" in caplog.text) == (norm != "SyncBN")


@pytest.mark.parametrize("supported", [False, True])
def test_mixed_precision_on_a_cpu_that_is_made_for_it(supported, caplog, monkeypatch):
    monkeypatch.setattr(config, "cpu_has_bfloat16", lambda: supported)
    cfg = load_config(leaf("u2seg_R50_300.yaml"))
    with caplog.at_level("INFO"):
        fit_to_devices(cfg, 1, False)
    assert supported == cfg.SOLVER.AMP.ENABLED
    assert ("bfloat16" in caplog.text) == supported


def test_a_prediction_does_not_speak_of_what_only_training_feels(caplog, monkeypatch):
    monkeypatch.setattr(config, "cpu_has_bfloat16", lambda: False)
    cfg = load_config(leaf("u2seg_R50_300.yaml"))
    with caplog.at_level("INFO"):
        fit_to_devices(cfg, 1, False, training=False)
    assert (cfg.MODEL.RESNETS.NORM, cfg.SOLVER.AMP.ENABLED, cfg.MODEL.DEVICE) == ("BN", False, "cpu")
    assert "becomes cpu" in caplog.text
    assert "SyncBN" not in caplog.text
    assert "AMP" not in caplog.text
