"""Weights by URI: right names, nothing unpickled that is no array, errors in words."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from synthetic_panoptic import QUICK_CONFIG as CONFIG
from torchvision.models import resnet18, resnet50

from u2seg.engine import checkpoint
from u2seg.engine.checkpoint import U2SegCheckpointer, class_counts, local_file, read_checkpoint, to_detectron2
from u2seg.engine.config import load_config
from u2seg.errors import DataError, UsageError


def make_model(*options):
    counts = ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    return build_model(
        load_config(
            str(CONFIG), [*counts, "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.DEVICE", "cpu", *options]
        )
    )


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    net = resnet18().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def stages(net, x):
    """Outputs of torchvision's four stages."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    found = []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = stage(x)
        found.append(x)
    return found


def dino_full(state):
    """DINO's full checkpoint: student, teacher, and the command line."""
    teacher = {f"backbone.{key}": value for key, value in state.items()} | {"head.mlp.0.weight": torch.zeros(2, 2)}
    student = {f"module.backbone.{key}": torch.zeros_like(value) for key, value in state.items()}
    return {"student": student, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(arch="resnet50")}


@pytest.mark.parametrize(
    "wrap",
    [dict, lambda state: {"state_dict": state}, dino_full, lambda state: {f"module.{k}": v for k, v in state.items()}],
)
def test_backbone_computes_what_it_did_before(backbone, tmp_path, wrap):
    torch.save(wrap(backbone.state_dict()), tmp_path / "a.pth")
    model = make_model().eval()
    U2SegCheckpointer(model).load(str(tmp_path / "a.pth"))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours = model.backbone.bottom_up(x)
        wanted = stages(backbone, x)
    for index, output in enumerate(wanted):
        assert torch.allclose(ours[f"res{index + 2}"], output, atol=1e-5)


def test_every_name_of_a_resnet50_is_detectron2s():
    state = to_detectron2(resnet50().state_dict())
    model = make_model("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256")
    own = {k: v.shape for k, v in model.state_dict().items() if k.startswith("backbone.bottom_up")}
    assert {k: v.shape for k, v in state.items()} == {k: v for k, v in own.items() if "num_batches" not in k}


def test_detectron2_pickle(backbone, tmp_path):
    renamed = to_detectron2(backbone.state_dict())
    state = {key.removeprefix("backbone.bottom_up."): value.numpy() for key, value in renamed.items()}
    with open(tmp_path / "a.pkl", "wb") as file:
        pickle.dump({"model": state, "__author__": "someone", "matching_heuristics": True}, file)
    model = make_model()
    U2SegCheckpointer(model).load(str(tmp_path / "a.pkl"))
    loaded = model.backbone.bottom_up.res2[0].conv1.weight
    assert np.array_equal(loaded.detach().numpy(), state["res2.0.conv1.weight"])


def test_own_checkpoints_load_strictly(tmp_path):
    model, other = make_model(), make_model()
    U2SegCheckpointer(model, str(tmp_path)).save("a", iteration=7)
    assert U2SegCheckpointer(other).load(str(tmp_path / "a.pth"))["iteration"] == 7
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert class_counts(read_checkpoint(tmp_path / "a.pth")["model"]) == (3, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "last_checkpoint"]


def test_nothing_loads_nothing():
    assert U2SegCheckpointer(make_model()).load("") == {}


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("u2seg-was-here",)


def test_code_in_a_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"x": Evil()}}))
    with pytest.raises(DataError, match="damaged or no checkpoint"):
        read_checkpoint(tmp_path / "a.pkl")
    assert not (tmp_path / "u2seg-was-here").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip"])
@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
def test_damaged_files(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"weights .*{name} are damaged or no checkpoint") as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_cut_off_anywhere_is_damaged_in_one_line(tmp_path, zipped):
    file = tmp_path / "a.pth"
    content = {"model": {"a.weight": torch.rand(40, 40), "b.bias": torch.rand(200)}}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for length in {0, 1, 7, 100, *range(0, len(whole), 149), len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"^weights \S+ are damaged or no checkpoint: \S.*$") as caught:
            read_checkpoint(file)
        assert not set("\n\x1b") & set(str(caught.value))
    file.write_bytes(whole)
    assert read_checkpoint(file)["model"].keys() == content["model"].keys()


def test_a_file_that_can_not_be_opened_is_not_called_damaged(tmp_path):
    with pytest.raises(UsageError, match=r"can't be read: Is a directory"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("key", ["MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"])
def test_other_class_counts_are_refused(tmp_path, key):
    U2SegCheckpointer(make_model(), str(tmp_path)).save("a")
    with pytest.raises(DataError, match=r"made for 3 .* classes, but the model has 5"):
        U2SegCheckpointer(make_model(key, "5")).load(str(tmp_path / "a.pth"))


def test_another_model_is_refused(tmp_path):
    torch.save({"model": {"encoder.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(DataError, match=r"no tensor that this model has; theirs begin with encoder\.weight"):
        U2SegCheckpointer(make_model()).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("no/such.pth", "do not exist"),
        ("dino://resnet51", "no DINO backbone named 'resnet51'. Did you mean 'resnet50'"),
        ("http://127.0.0.1:9/a.pth", "can't be had"),
    ],
)
def test_missing_files(uri, words):
    with pytest.raises(UsageError, match=words) as caught:
        local_file(uri)
    assert "\n" not in str(caught.value)


def test_uris_name_the_official_files(monkeypatch):
    monkeypatch.setattr(checkpoint.PathManager, "get_local_path", lambda url: url)
    assert str(local_file("dino://resnet50")).endswith("dino_resnet50_pretrain.pth")


def test_unwritable_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    checkpointer = U2SegCheckpointer(make_model(), str(tmp_path))
    checkpointer.save("a")
    before = (tmp_path / "a.pth").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.pth"):
        checkpointer.save("a")
    assert (tmp_path / "a.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "last_checkpoint"]


def test_the_first_error_is_told_where_cleaning_up_fails_too(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    def unlink(*_, **__):
        raise OSError(5, "Input/output error")

    checkpointer = U2SegCheckpointer(make_model(), str(tmp_path))
    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(type(tmp_path), "unlink", unlink)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.pth"):
        checkpointer.save("a")
    monkeypatch.undo()
