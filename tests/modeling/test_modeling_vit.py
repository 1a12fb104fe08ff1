"""A ViT as a backbone: levels as FPN's, a frozen trunk that is no part of the state, another one refused."""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import nn

from u2seg.engine.checkpoint import U2SegCheckpointer
from u2seg.engine.config import load_config
from u2seg.engine.optimizer import build_optimizer
from u2seg.errors import DataError, UsageError
from u2seg.modeling import vit_backbone
from u2seg.modeling.trunk import Trunk, fingerprint
from u2seg.modeling.vit_backbone import build_u2seg_vit_backbone
from u2seg.pseudo.features.vit import ViTFeatures

LEVELS = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def config(weights, *options):
    vit = [f"U2SEG.FEATURES.ARGS.vit.{key}" for key in ("model", "weights", "layer", "precision")]
    pairs = zip(vit, ["test_vit", str(weights), "2", "float32"], strict=True)
    neck = ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FPN.NORM", "GN", "MODEL.DEVICE", "cpu", "INPUT.FORMAT", "RGB"]
    imagenet = ["MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"]
    return load_config(options=[*(word for pair in pairs for word in pair), *neck, *imagenet, *options])


def backbone(weights, *options):
    torch.manual_seed(5)
    return build_u2seg_vit_backbone(config(weights, *options))


@pytest.fixture(scope="module")
def frozen(vit_files):
    return backbone(vit_files[0])


@pytest.mark.parametrize("stride", ["8", "16"])
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_levels_are_those_of_fpn(vit_files, stride, size):
    pyramid = backbone(vit_files[0], "MODEL.VIT.STRIDE", stride)
    levels = {name: ShapeSpec(32, stride=side) for name, side in LEVELS.items()}
    trunk = {"vit": ShapeSpec(64, stride=int(stride))}
    assert pyramid.output_shape() == levels | trunk
    levels = pyramid(torch.zeros(2, 3, *size))
    for name, side in LEVELS.items():
        assert levels[name].shape == (2, 32, *(-(-pixels // side) for pixels in size)), name
        assert levels[name].dtype == torch.float32


@pytest.mark.parametrize("size", [(33, 47), (97, 65), (31, 200), (1, 1)])
def test_batches_of_any_size_are_padded_to_what_the_levels_need(vit_files, size):
    options = ["MODEL.BACKBONE.NAME", "build_u2seg_vit_backbone", "MODEL.META_ARCHITECTURE", "U2SegPanopticFPN"]
    roi = ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.ROI_HEADS.NAME", "U2SegCascadeROIHeads", "MODEL.MASK_ON", "True"]
    cascade = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True", "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"]
    more = ["MODEL.SEM_SEG_HEAD.NAME", "U2SegSemSegFPNHead", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    levels = ["MODEL.RPN.IN_FEATURES", "['p2','p3','p4','p5','p6']"]
    heads = ["MODEL.ROI_HEADS.IN_FEATURES", "['p2','p3','p4','p5']", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
    anchors = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16], [32], [64], [128]]", "MODEL.ROI_BOX_HEAD.NUM_FC", "1"]
    masks = ["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"]
    cfg = config(vit_files[0], *options, *roi, *cascade, *more, *levels, *heads, *anchors, *masks)
    model = build_model(cfg).eval()
    sizes = [size, (40, 50)]
    with torch.no_grad():
        results = model([{"image": torch.zeros(3, *each, dtype=torch.uint8)} for each in sizes])
    assert [tuple(result["sem_seg"].shape[1:]) for result in results] == sizes


def test_features_are_those_of_the_label_factory(vit_files):
    """The same block of the same photo, but that each patch has unit variance."""
    extractor = ViTFeatures(model="test_vit", weights=str(vit_files[0]), layer=2, size=[64, 96], precision="float32")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    expected = torch.from_numpy(extractor.extract([image])[0])
    expected = nn.functional.layer_norm(expected.permute(1, 2, 0), (64,)).permute(2, 0, 1)
    for image_format, pixels in (("RGB", image), ("BGR", image[:, :, ::-1].copy())):
        mean = [123.675, 116.28, 103.53][:: 1 if image_format == "RGB" else -1]
        scale = [58.395, 57.12, 57.375][:: 1 if image_format == "RGB" else -1]
        options = ["INPUT.FORMAT", image_format, "MODEL.PIXEL_MEAN", str(mean), "MODEL.PIXEL_STD", str(scale)]
        trunk = backbone(vit_files[0], *options).net
        normalised = (torch.from_numpy(pixels).float() - torch.tensor(mean)) / torch.tensor(scale)
        features = trunk(normalised.permute(2, 0, 1)[None])["vit"]
        torch.testing.assert_close(features[0], expected, atol=2e-4, rtol=1e-3)


def test_a_patch_stands_for_16_pixels_whatever_its_own_side(vit_files):
    sizes = []

    class Network(nn.Module):
        dim, stride = 4, 14

        def forward(self, pixels):
            sizes.append(tuple(pixels.shape[-2:]))
            assert 0 <= pixels.min() <= pixels.max() <= 1.1
            return pixels.new_zeros(len(pixels), 4, pixels.shape[2] // 14, pixels.shape[3] // 14)

    options = {"pixel_mean": [100.0] * 3, "pixel_std": [50.0] * 3, "precision": "float32", "frozen": True}
    for stride in (8, 16):
        trunk = Trunk(Network(), stride=stride, device="cpu", **options)
        assert trunk(torch.zeros(1, 3, 64, 96))["vit"].shape == (1, 4, 64 // stride, 96 // stride)
    assert sizes == [(112, 168), (56, 84)]


def test_several_blocks_lie_side_by_side(vit_files):
    both = backbone(vit_files[0], "MODEL.VIT.BLOCKS", "[2, -1]").net
    pixels = torch.randn(1, 3, 32, 64)
    parts = [backbone(vit_files[0], "MODEL.VIT.BLOCKS", f"[{block}]").net(pixels)["vit"] for block in (2, -1)]
    torch.testing.assert_close(both(pixels)["vit"], torch.cat(parts, dim=1))


def test_a_frozen_trunk_is_no_part_of_the_state_and_does_not_learn(frozen):
    assert not [name for name in frozen.state_dict() if name.startswith("net.") and name != "net.fingerprint"]
    assert not [name for name, _ in frozen.named_parameters() if name.startswith("net.")]
    network = frozen.net._unregistered[0]
    before = fingerprint(network)
    frozen.train()
    sum(level.sum() for level in frozen(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in frozen.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    assert torch.equal(fingerprint(network), before)


def test_a_frozen_trunk_moves_with_the_model(vit_files):
    pyramid = backbone(vit_files[0]).to("meta")
    assert {tensor.device.type for tensor in pyramid.net._unregistered[0].parameters()} == {"meta"}


def test_a_tuned_trunk_learns_and_is_saved(vit_files):
    pyramid = backbone(vit_files[0], "MODEL.VIT.FROZEN", "False").train()
    assert "net.network.network.blocks.0.attn.qkv.weight" in pyramid.state_dict()
    sum(level.square().sum() for level in pyramid(torch.randn(1, 3, 64, 64)).values()).backward()
    for name, parameter in pyramid.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    learning = {name for name, parameter in pyramid.net.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[3] for name in learning if ".blocks." in name} == {"0", "1", "2"}
    assert not [name for name in learning if name.startswith("network.network.norm.")]


def test_facets_leave_what_they_do_not_use_fixed(vit_files):
    options = ["U2SEG.FEATURES.ARGS.vit.facet", "key", "MODEL.VIT.FROZEN", "False"]
    pyramid = backbone(vit_files[0], *options).train()
    sum(level.square().sum() for level in pyramid(torch.randn(1, 3, 64, 64)).values()).backward()
    for name, parameter in pyramid.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def learning_rates(pyramid, *options):
    """Of each parameter that learns, by name."""
    cfg = load_config(options=["SOLVER.BASE_LR", "0.1", "SOLVER.BIAS_LR_FACTOR", "2.0", *options])
    groups = build_optimizer(cfg, pyramid).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    return {name: rates[id(each)] for name, each in pyramid.named_parameters() if each.requires_grad}


def test_learning_rates_decay_from_the_last_block_down(vit_files):
    rates = learning_rates(backbone(vit_files[0], "MODEL.VIT.FROZEN", "False"), "MODEL.VIT.LR_DECAY", "0.5")
    prefix = "net.network.network."
    blocks = [rates[f"{prefix}blocks.{block}.mlp.fc1.weight"] for block in (2, 1, 0)]
    assert blocks == pytest.approx([0.05, 0.025, 0.0125])
    assert rates[f"{prefix}patch_embed.proj.weight"] == rates[f"{prefix}pos_embed"] == pytest.approx(0.00625)
    assert rates["simfp_2.0.weight"] == 0.1


def test_the_optimizer_is_detectron2s_where_nothing_is_tuned(frozen):
    from detectron2.solver import build_optimizer as detectron2s

    cfg = load_config(options=["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.WEIGHT_DECAY_BIAS", "0.0"])
    ours, theirs = build_optimizer(cfg, frozen), detectron2s(cfg, frozen)
    assert ours.param_groups == theirs.param_groups
    assert type(ours).__name__ == type(theirs).__name__


def test_another_trunk_is_refused(vit_files, frozen, tmp_path):
    U2SegCheckpointer(frozen, str(tmp_path)).save("neck")
    path = str(tmp_path / "neck.pth")
    again = backbone(vit_files[0])
    nn.init.zeros_(again.simfp_4[0].weight)
    U2SegCheckpointer(again).load_trained(path)
    assert torch.equal(again.simfp_4[0].weight, frozen.simfp_4[0].weight)
    others = {"weights": backbone(vit_files[1]), "block": backbone(vit_files[0], "MODEL.VIT.BLOCKS", "[1]")}
    for other in others.values():
        with pytest.raises(DataError, match="trained on another frozen backbone") as caught:
            U2SegCheckpointer(other).load(path)
        assert "\n" not in str(caught.value)


def test_a_tuned_trunk_starts_from_a_head_that_was_trained_on_the_frozen_one(vit_files, frozen, tmp_path):
    U2SegCheckpointer(frozen, str(tmp_path)).save("neck")
    tuned = backbone(vit_files[0], "MODEL.VIT.FROZEN", "False")
    nn.init.zeros_(tuned.simfp_4[0].weight)
    U2SegCheckpointer(tuned).load(str(tmp_path / "neck.pth"))
    assert torch.equal(tuned.simfp_4[0].weight, frozen.simfp_4[0].weight)


def test_the_fingerprint_is_of_tensors_and_not_of_their_file(vit_files, frozen, tmp_path):
    from safetensors.torch import save_file

    copy = tmp_path / "copy.safetensors"
    save_file(torch.load(vit_files[0]), copy)
    assert torch.equal(backbone(copy).net.fingerprint, frozen.net.fingerprint)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.VIT.STRIDE", "14"], "MODEL.VIT.STRIDE.* '14'.*8"),
        (["MODEL.VIT.BLOCKS", "[99]"], "block 99: test_vit has blocks 0 to"),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "33"], "MODEL.FPN.NORM 'GN'.*divisible"),
        (["MODEL.VIT.LR_DECAY", "2.0"], "MODEL.VIT.LR_DECAY must be from 0 to 1"),
    ],
)
def test_values_that_are_not_allowed(vit_files, options, words):
    with pytest.raises(UsageError, match=words):
        backbone(vit_files[0], *options)


class Extractor(nn.Module):
    dim, stride = 64, 4

    def forward(self, pixels):
        return nn.functional.avg_pool2d(pixels[:, :1], 4).repeat(1, 64, 1, 1)


@pytest.mark.parametrize("part", [Extractor(), object()])
def test_a_plugins_extractor_is_a_trunk_where_it_is_a_torch_module(vit_files, monkeypatch, part):
    monkeypatch.setattr(vit_backbone.Part, "build", lambda self, **context: part)
    if isinstance(part, nn.Module):
        assert backbone(vit_files[0])(torch.zeros(1, 3, 32, 64))["p2"].shape == (1, 32, 8, 16)
        with pytest.raises(UsageError, match=r"MODEL.VIT.BLOCKS is for 'vit'"):
            backbone(vit_files[0], "MODEL.VIT.BLOCKS", "[1]")
        return
    with pytest.raises(UsageError, match="'vit' can't be a backbone: it is no torch module"):
        backbone(vit_files[0])
