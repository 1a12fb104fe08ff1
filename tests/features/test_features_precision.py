"""What number format the network runs in, and that it hardly changes features."""

import numpy as np
import pytest
import torch
from test_features_vit import make
from timm.layers import LayerScale

from u2seg.errors import UsageError
from u2seg.pseudo.features.network import PRECISIONS, _fold_scales, resolve_precision, to_precision


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")]
)
def test_auto_on_a_cpu_is_what_it_has_instructions_for(monkeypatch, amx, avx512, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_auto_on_a_gpu(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", "cuda:1") == expected
    assert resolve_precision("float32", "cuda:1") == "float32"


def test_unknown_precisions_are_refused(plain_file):
    with pytest.raises(UsageError, match=r"precision.*'half'"):
        make(plain_file, precision="half")


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "auto"])
def test_features_are_much_those_of_float32(plain_file, precision):
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    reference = make(plain_file).extract([image])[0]
    extractor = make(plain_file, precision=precision)
    features = extractor.extract([image])[0]
    cosine = (features * reference).sum(0) / np.linalg.norm(features, axis=0) / np.linalg.norm(reference, axis=0)
    assert features.dtype == np.float32
    assert cosine.min() > 0.998
    assert np.array_equal(features, reference) == (precision == "float32")
    assert extractor.info["precision"] == precision
    assert extractor.embed([image]).dtype == np.float32


def test_passes_of_other_precisions_are_not_shared(plain_file):
    assert not make(plain_file).shares_pass(make(plain_file, precision="bfloat16"))


@pytest.mark.parametrize(("amx", "device", "fused"), [(False, "cpu", False), (True, "cpu", True), (False, "mps", True)])
def test_attention_is_taken_in_steps_in_bfloat16_without_amx(plain_file, monkeypatch, amx, device, fused):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    network = make(plain_file)._network
    assert [block.attn.fused_attn for block in network.blocks] == [True] * len(network.blocks)
    to_precision(network, "bfloat16", device)
    assert [block.attn.fused_attn for block in network.blocks] == [fused] * len(network.blocks)


def test_scales_of_layers_are_folded_into_weights_that_give_the_same(plain_file):
    network = make(plain_file)._network
    rng = torch.Generator().manual_seed(0)
    for block in network.blocks:
        block.ls1, block.ls2 = LayerScale(network.embed_dim), LayerScale(network.embed_dim)
        for scale in (block.ls1, block.ls2):
            scale.gamma.data = torch.randn(network.embed_dim, generator=rng)
    pixels = torch.randn(1, 3, 32, 32, generator=rng)
    with torch.inference_mode():
        expected = network(pixels)
        for block in network.blocks:
            _fold_scales(block)
        assert not any(isinstance(module, LayerScale) for module in network.modules())
        torch.testing.assert_close(network(pixels), expected)
