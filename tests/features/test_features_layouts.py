"""Other people's layouts of the same weights, back to timm's, on tiny random networks; and files that are refused."""

import argparse
import os
import re

import pytest
import torch
from features_zoo import HF_BLOCK, as_hugging_face, tiny
from safetensors.torch import save_file

from u2seg.errors import DataError, UsageError
from u2seg.pseudo.features import weights
from u2seg.pseudo.features.layouts import to_timm


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def test_dino_checkpoint_with_teacher_and_student(plain):
    state = plain.state_dict()
    teacher = {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": torch.ones(2)}
    student = {f"module.backbone.{k}": v + 1 for k, v in state.items()} | {"module.head.mlp.0.weight": torch.ones(2)}
    same(to_timm({"student": student, "teacher": teacher, "epoch": 3}, state), state)
    same(to_timm({"student": student}, state), {k: v + 1 for k, v in state.items()})
    same(to_timm({"state_dict": {f"module.{k}": v for k, v in state.items()}}, state), state)


def test_official_dinov2_with_registers():
    model = tiny("test_vit", reg_tokens=4, no_embed_class=True, init_values=0.1)
    state = model.state_dict()
    own = torch.randn(1, 1, 64)
    official = {k.replace("reg_token", "register_tokens"): v for k, v in state.items()}
    official |= {"cls_token": state["cls_token"] - own, "pos_embed": torch.cat([own, state["pos_embed"]], 1)}
    official["mask_token"] = torch.zeros(1, 64)
    found = to_timm(official, state)
    torch.testing.assert_close(found.pop("cls_token"), state["cls_token"])
    same(found, {k: v for k, v in state.items() if k != "cls_token"})


@pytest.mark.parametrize("family", HF_BLOCK)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_hugging_face(family, prefix):
    options = {"init_values": 0.1} if family == "dinov2" else {}
    state = tiny("test_vit", **options).state_dict()
    theirs = {prefix + k: v for k, v in as_hugging_face(state, family).items()}
    assert not any("qkv" in name for name in theirs)
    same(to_timm(theirs, state), state)


def test_official_dinov3(tiny_rotary):
    state = tiny_rotary.state_dict()
    official = {}
    for name, tensor in state.items():
        name = re.sub(r"gamma_([12])", r"ls\1.gamma", name).replace("reg_token", "storage_tokens")
        if name.endswith("q_bias"):
            value = state[name.replace("q_bias", "v_bias")]
            official[name.replace("q_bias", "qkv.bias")] = torch.cat(
                [tensor, torch.full_like(tensor, torch.nan), value]
            )
            official[name.replace("q_bias", "qkv.bias_mask")] = torch.ones(3)
        elif not name.endswith("v_bias"):
            official[name] = tensor
    official["rope_embed.periods"] = torch.ones(4)
    same(to_timm(official, state), state)
    unbiased = {k: v for k, v in state.items() if not k.endswith("_bias")}
    zero = {k: v.nan_to_num() * 0 if k.endswith("qkv.bias") else v for k, v in official.items()}
    same(to_timm(zero, unbiased), unbiased)


def test_hugging_face_dinov3(tiny_rotary):
    state = tiny_rotary.state_dict()
    same(to_timm(as_hugging_face(state, "dinov3"), state), state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_round_trips(plain, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"teacher": plain.state_dict(), "args": argparse.Namespace(arch="vit_small")}, path)
    else:
        save_file(as_hugging_face(plain.state_dict(), "vit"), path)
    same(weights.load("test_vit", weights.locate(str(path))).state_dict(), plain.state_dict())


def test_a_table_of_another_size_is_taken_as_it_is(tmp_path):
    other = tiny("test_vit", img_size=64)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    assert weights.load("test_vit", weights.locate(str(tmp_path / "other.pth"))).pos_embed.shape == (1, 17, 64)


def test_misfits_are_told(plain, tmp_path):
    state = plain.state_dict()
    del state["norm.weight"], state["norm.bias"]
    torch.save(state | {"extra.weight": torch.ones(1)}, tmp_path / "odd.pth")
    with pytest.raises(DataError, match=r'Missing key.*"norm.weight", "norm.bias"\. Unexpected key.*"extra.weight"'):
        weights.load("test_vit", weights.locate(str(tmp_path / "odd.pth")))


def test_a_misfit_says_what_the_file_is_of(tmp_path):
    shapes = weights.models.skeleton("vit_small_patch16_224.dino").state_dict()
    torch.save({k: torch.zeros(v.shape) for k, v in shapes.items()}, tmp_path / "dino.pth")
    with pytest.raises(DataError, match=r"of a ViT of 12 blocks, 384 channels, patches of 16$"):
        weights.load("vit_small_patch8_224.dino", weights.locate(str(tmp_path / "dino.pth")))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path):
    torch.save({"model": Bomb(tmp_path / "boom")}, tmp_path / "bomb.pth")
    with pytest.raises(DataError, match=r"it asks for \S*mkdir, which is no tensor$"):
        weights.read(tmp_path / "bomb.pth")
    assert not (tmp_path / "boom").exists()
    torch.load(tmp_path / "bomb.pth", weights_only=False)
    assert (tmp_path / "boom").exists(), "the bomb of this test is a real one"


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "empty.pth", "empty.safetensors", "text.pth"])
def test_damaged_files_are_told(plain, tmp_path, name):
    path = tmp_path / name
    if name.startswith("cut"):
        whole = tmp_path / f"whole{path.suffix}"
        (torch.save if path.suffix == ".pth" else save_file)(plain.state_dict(), whole)
        path.write_bytes(whole.read_bytes()[:5000])
    else:
        path.write_bytes(b"" if name.startswith("empty") else b"this is no file of weights\n")
    with pytest.raises(DataError, match=re.escape(str(path))):
        weights.read(path)


def test_a_list_is_no_state_dict(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds a list"):
        weights.read(tmp_path / "list.pth")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        weights.locate(str(tmp_path / "none.pth"))


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UsageError, match="give its path as weights") as caught:
        weights.locate("timm://dino_vits16")
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_only_for_what_its_cache_lacks(monkeypatch, plain_file):
    import huggingface_hub

    asked = []

    def download(repository, file, local_files_only):
        asked.append((file, local_files_only))
        return str(plain_file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert weights.locate("timm://dino_vits16").path == plain_file
    assert asked == [("model.safetensors", True)]
