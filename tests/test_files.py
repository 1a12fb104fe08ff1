"""Files are whole or absent; directories of the user's are left alone."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from u2seg.errors import UsageError
from u2seg.files import MARKER, claim_directory, replacing, write_arrays, write_json
from u2seg.panoptic.writing import writing_json


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"


def _write_for_ever(root):
    for index in range(10_000):
        write_json(root / f"{index % 7}.json", {"rows": list(range(20_000))})


def test_a_killed_writer_leaves_only_whole_files(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(tmp_path,))
    process.start()
    time.sleep(0.4)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    written = [path for path in tmp_path.glob("*.json") if not path.name.startswith(".")]
    assert written
    for path in written:
        assert json.loads(path.read_text())["rows"][-1] == 19_999


def test_streamed_lists_are_plain_json(tmp_path):
    lists = {"one": iter([1, {"n": "日本"}]), "none": iter([]), "more": iter([2])}
    with writing_json(tmp_path / "a.json", {"info": {"x": "ä"}}, lists) as add:
        add(3)
        add({})
    content = {"info": {"x": "ä"}, "one": [1, {"n": "日本"}], "none": [], "more": [2, 3, {}]}
    assert json.loads((tmp_path / "a.json").read_text()) == content


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, {"x": np.arange(5)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_new_an_empty_and_an_own_directory_are_taken(tmp_path):
    for root in (tmp_path / "new" / "deep", tmp_path / "new" / "deep"):
        assert claim_directory(root, "labels") == root
    (tmp_path / "empty").mkdir()
    claim_directory(tmp_path / "empty", "labels")
    assert (tmp_path / "empty" / MARKER).is_file()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"panoptic.json": "{}"}, "u2seg did not write, such as 'panoptic.json'"),
        ({MARKER: '{"format": 2, "kind": "gallery"}'}, "holds gallery, not labels"),
        ({MARKER: '{"format": 99, "kind": "labels"}'}, "format 99"),
        ({MARKER: "{"}, "damaged"),
    ],
)
def test_other_directories_are_refused_and_left_alone(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        claim_directory(tmp_path, "labels")
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(files)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        claim_directory(tmp_path / "file" / "out", "labels")
