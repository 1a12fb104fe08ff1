"""Files of weights by strangers: what is whole and plain is read, all else is refused in one line, at no cost."""

import argparse
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from u2seg import weights_file
from u2seg.engine.checkpoint import read_checkpoint
from u2seg.errors import DataError, UsageError
from u2seg.pseudo.features import weights
from u2seg.stego.head import read_checkpoint as read_stuff_checkpoint
from u2seg.weights_file import read_weights

READERS = {"training": read_checkpoint, "features": weights.read, "stuff": read_stuff_checkpoint}
STATE = {"a.weight": torch.arange(600.0).reshape(20, 30), "b.bias": torch.ones(7)}


def repack(path, change, compression=zipfile.ZIP_STORED):
    """Write the members of a file of torch's anew, each as ``change`` makes it of its name and content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (torch.Tensor, np.ndarray)):
        return torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    return first == second


def test_plain_content_of_each_kind_is_read(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    content = {
        "model": OrderedDict(STATE) | {"tied": STATE["a.weight"], "half": torch.ones(2).half(), "parameter": weight},
        "optimizer": optimizer.state_dict(),
        "more": [
            np.float64(3),
            np.int64(4),
            np.ones(3),
            torch.Size([1, 2]),
            torch.float16,
            "text",
            5,
            None,
            (1.5, {2}),
        ],
        "view": torch.arange(100)[::7],
    }
    for name, zipped in (("new.pth", True), ("old.pth", False)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        read = read_weights(tmp_path / name)
        assert all(same(content[key], read[key]) for key in ("model", "optimizer", "view"))
        assert read["more"][0] == 3
        assert same(read["more"][2], content["more"][2])
        assert read["more"][3:] == content["more"][3:]
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps({"model": arrays, "count": np.int64(3)}))
    assert same(read_weights(tmp_path / "arrays.pkl"), {"model": arrays, "count": 3})
    save_file(STATE, tmp_path / "a.safetensors")
    assert same(read_weights(tmp_path / "a.safetensors"), STATE)
    torch.save({"args": argparse.Namespace(arch="vit"), "teacher": STATE}, tmp_path / "dino.pth")
    assert same(read_weights(tmp_path / "dino.pth")["teacher"], STATE)


def compressed(path):
    torch.save({"model": {"a": torch.zeros(50_000_000)}}, path)
    repack(path, lambda name, content: content, zipfile.ZIP_DEFLATED)


def repeated(path):
    """200 names in the directory of a zip file for the same megabyte."""
    torch.save({"model": {str(i): torch.full((250_000,), float(i)) for i in range(200)}}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        offsets = {name: info.header_offset for name, info in archive.NameToInfo.items() if "/data/" in name}
    start = content.index(b"PK\x01\x02")
    directory = bytearray(content[start:])
    for name in offsets:
        entry = directory.index(name.encode()) - 46
        directory[entry + 42 : entry + 46] = min(offsets.values()).to_bytes(4, "little")
    kept = sorted(offsets.values())[1]
    end = directory.rindex(b"PK\x05\x06")
    directory[end + 16 : end + 20] = kept.to_bytes(4, "little")
    path.write_bytes(content[:kept] + directory)


def expanded(path):
    torch.save({"model": {"a": torch.ones(1).expand(2_000_000_000)}}, path)


def copied(path):
    """A tensor that a function of torch's, which its own unpickler would call, makes large."""

    class Large:
        def __reduce__(self):
            one = torch.ones(1).expand(1_000_000_000)
            return torch._utils._rebuild_device_tensor_from_cpu_tensor, (one, torch.float64, "cpu", False)

    torch.save({"model": {"a": Large()}}, path)


def claimed(path):
    torch.save({"model": {"a": torch.ones(3)}}, path)
    repack(path, lambda name, content: content.replace(b"K\x03", b"J\xff\xff\xff\x3f"))


def claimed_by_an_old_file(path):
    torch.save({"model": {"a": torch.ones(3)}}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x03", b"J\xff\xff\xff\x3f"))


def allocated(path):
    class Large:
        def __reduce__(self):
            return bytearray, (2_000_000_000,)

    torch.save({"model": {"a": Large()}}, path)


BOMBS = [compressed, repeated, expanded, copied, claimed, claimed_by_an_old_file, allocated]
MEASURE = """
import resource, sys
from test_weights_file import READERS
read, peak = READERS[sys.argv[1]], lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limit = peak() + 150_000  # kB
for path in sys.argv[2:]:
    try:
        read(path)
        print("taken")
    except ValueError as error:
        print(error)
    if peak() > limit:
        sys.exit(f"{path} was unpacked")
"""


@pytest.mark.parametrize("reader", READERS)
def test_small_files_that_claim_to_be_large_are_refused_before_they_are(tmp_path, reader):
    paths = [tmp_path / f"{make.__name__}.pth" for make in BOMBS]
    for path, make in zip(paths, BOMBS, strict=True):
        make(path)
        assert path.stat().st_size < 3_000_000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    command = [sys.executable, "-c", MEASURE, reader, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert all(f"weights {path} are damaged" in line for path, line in zip(paths, lines, strict=True)), lines


def test_ten_bytes_that_ask_for_room_for_a_billion_objects(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    assert read_weights(tmp_path / "a.pkl") is None


def test_a_header_longer_than_its_file(tmp_path):
    for length in (2**63, 2**62, 10**8, 1000):
        (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(DataError, match=r"a\.safetensors are damaged or no checkpoint: SafetensorError"):
            read_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("ending", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("reader", READERS)
def test_pipes_devices_and_endless_files_do_not_hang(tmp_path, monkeypatch, ending, reader):
    pipe, device, endless = (tmp_path / f"{name}.{ending}" for name in ("pipe", "device", "endless"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    with open(endless, "wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(weights_file, "_memory", lambda: 2**35)
    for path, words in ((pipe, "no regular file"), (device, "no regular file"), (endless, "bytes of memory")):
        with pytest.raises((UsageError, DataError), match=words):
            READERS[reader](path)
        with pytest.raises((UsageError, DataError), match=words):
            weights.locate(str(path))


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("reader", READERS)
def test_no_code_runs_and_the_message_names_what_was_asked_for(tmp_path, reader, zipped):
    mark = tmp_path / "ran"
    calls = [
        (os.mkdir, str(mark)),
        (eval, f"__import__('os').mkdir({str(mark)!r})"),
        (subprocess.call, ["touch", str(mark)]),
        (print, "ran"),
        (torch.load, str(tmp_path / "other.pth")),
        (np.load, str(tmp_path / "other.npy")),
        (io.open, str(mark), "w"),
    ]
    for call in calls:
        path = tmp_path / "evil.pth"
        torch.save({"model": {"x": Evil(*call)}}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(DataError, match=r"it asks for \S+, which is no tensor") as caught:
            READERS[reader](path)
        assert len(str(caught.value).splitlines()) == 1
        assert not mark.exists()


def test_a_flipped_bit_is_found_or_harmless(tmp_path):
    path, clock = tmp_path / "a.pth", random.Random(0)
    torch.save({"model": STATE, "iteration": 7}, path)
    whole = path.read_bytes()
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        content[clock.randrange(len(content))] ^= 1 << clock.randrange(8)
        path.write_bytes(content)
        try:
            read = read_weights(path)
        except DataError:
            refused += 1
        else:
            assert same(read, {"model": STATE, "iteration": 7})
    assert refused > 200


def load_features(path):
    return weights.load("test_vit", weights.locate(str(path)))


def test_contents_that_are_no_table_are_told_by_all_readers(tmp_path):
    loop = {}
    loop["model"] = loop
    deep = []
    for _ in range(100):
        deep = [deep]
    path = tmp_path / "a.pth"
    contents = [7, None, [], {}, {3: torch.ones(1)}, {"model": {3: torch.ones(1)}}, {"model": 3}, loop, deep]
    for content in [*contents, {"format": "u2seg-stuff-1"}, {"a": torch.ones(2).to_sparse()}]:
        torch.save(content, path)
        for read in (
            read_checkpoint,
            read_stuff_checkpoint,
            lambda path: weights.load("test_vit", weights.locate(str(path))),
        ):
            with pytest.raises(DataError) as caught:
                read(path)
            assert "a.pth" in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1


def test_all_of_the_memory_is_enough(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "a.pth")
    monkeypatch.setattr(weights_file, "_memory", lambda: (tmp_path / "a.pth").stat().st_size)
    assert same(read_weights(tmp_path / "a.pth"), STATE)
    monkeypatch.setattr(weights_file, "_memory", lambda: 100)
    with pytest.raises(DataError, match=r"more than the 100 bytes of memory"):
        read_weights(tmp_path / "a.pth")
