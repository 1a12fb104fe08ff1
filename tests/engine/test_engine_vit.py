"""tools/train_net.py on a frozen vision transformer and whole masks: it learns, resumes, scores, and refuses others."""

import json

import pytest
import timm
import torch
from synthetic_panoptic import read_json
from training_tool import exit_code, train_net

from u2seg.panoptic import instance_entry, read_ids


def save_network(path, seed):
    torch.manual_seed(seed)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return str(path)


def write_instances(root):
    """The painted things as ``instances.json``."""
    content = read_json(root)
    photos = {image["id"]: image for image in content["images"]}
    isthing = {category["id"]: category["isthing"] for category in content["categories"]}
    annotations = []
    for label in content["annotations"]:
        ids = read_ids(root / "panoptic" / label["file_name"])
        for segment in (segment for segment in label["segments_info"] if isthing[segment["category_id"]]):
            entry = instance_entry(ids == segment["id"], segment["category_id"], segment["score"])
            annotations.append({"id": len(annotations) + 1, "image_id": label["image_id"], **entry})
    things = [category for category in content["categories"] if category["isthing"]]
    file = {"images": list(photos.values()), "categories": things, "annotations": annotations}
    (root / "instances.json").write_text(json.dumps(file))


@pytest.fixture
def vit_options(options, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(train_net, "register_detectron2", lambda: None)
    write_instances(labels)
    vit = {"model": "test_vit", "weights": save_network(tmp_path / "vit.pth", 0), "layer": "3"}
    return [
        *options,
        *("MODEL.BACKBONE.NAME", "build_u2seg_vit_backbone", "MODEL.FPN.NORM", "GN"),
        *("INPUT.THINGS", "instances", "INPUT.COPY_PASTE.ENABLED", "True"),
        *("MODEL.U2SEG.OBJECT_SCORES", "True", "MODEL.U2SEG.SEM_SEG_LOSS_STRIDE", "4"),
        *(word for key, value in vit.items() for word in (f"U2SEG.FEATURES.ARGS.vit.{key}", value)),
    ]


def test_it_trains_resumes_and_scores_and_refuses_another_network(vit_options, labels, tmp_path, capsys):
    out = tmp_path / "out"
    assert exit_code(vit_options) == 0
    state = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert [name for name in state if ".net." in name] == ["backbone.net.fingerprint"]
    assert exit_code([*vit_options, "SOLVER.MAX_ITER", "3"], "--resume") == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 2
    score = [*vit_options, "DATASETS.TEST", str(labels), "TEST.MATCHING.STUFF", "category"]
    assert exit_code(score, "--eval-only", "--resume") == 0
    capsys.readouterr()
    other = ["U2SEG.FEATURES.ARGS.vit.weights", save_network(tmp_path / "other.pth", 1)]
    for flags in (["--eval-only", "--resume"], ["--resume"]):
        assert exit_code([*score, *other, "SOLVER.MAX_ITER", "4"], *flags) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "error: the weights were trained on another frozen backbone" in last


@pytest.mark.parametrize("stride", ["3", "0", "8"])
def test_a_stride_of_the_semantic_loss_that_does_not_divide_the_heads(options, capsys, stride):
    assert exit_code([*options, "MODEL.U2SEG.SEM_SEG_LOSS_STRIDE", stride]) == 2
    assert f"SEM_SEG_LOSS_STRIDE {stride} must divide" in capsys.readouterr().err.strip().splitlines()[-1]


def test_names_are_fitted_before_the_last_checkpoint_and_nothing_else_is(vit_options, tmp_path, capsys):
    states = {}
    for batches in ("0", "2"):
        out = tmp_path / batches
        names = ["MODEL.U2SEG.NAMES_FROM", "vit", "MODEL.U2SEG.NAMES_FIT_ITER", batches, "OUTPUT_DIR", str(out)]
        assert exit_code([*vit_options, *names]) == 0
        states[batches] = torch.load(out / "model_final.pth", weights_only=True)["model"]
        assert ("names: fitted to" in (out / "log.txt").read_text()) == (batches == "2")
    differing = {name for name in states["0"] if not torch.equal(states["0"][name], states["2"][name])}
    assert differing == {"roi_heads.name_head.scores.weight", "roi_heads.name_head.scores.bias"}
