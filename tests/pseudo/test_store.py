"""Files are whole or absent; a directory made with other settings is refused."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from u2seg.errors import UsageError
from u2seg.panoptic import encode_ids
from u2seg.pseudo.store import OutputDirectory, StageLedger


@pytest.fixture
def output(tmp_path):
    directory = OutputDirectory(tmp_path / "out")
    directory.open()
    return directory


def files(directory):
    return sorted(p.relative_to(directory.root).as_posix() for p in directory.root.rglob("*") if p.is_file())


def test_a_write_that_fails_leaves_nothing(output):
    class Half:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        output.write_arrays(output.root / "a.npz", {"whole": np.zeros(3), "half": Half()})
    assert files(output) == []


def _write_for_ever(root):
    directory = OutputDirectory(root)
    for index in range(10_000):
        directory.write_json(directory.root / f"{index % 7}.json", {"rows": list(range(20_000))})


def test_a_killed_writer_leaves_only_whole_files(output):
    process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(output.root,))
    process.start()
    time.sleep(0.4)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    written = list(output.root.glob("*.json"))
    assert written
    for path in written:
        assert json.loads(path.read_text())["rows"][-1] == 19_999
    output.clean()
    assert not (output.stages / "tmp").exists()


def test_streamed_lists_are_plain_json(output):
    path = output.root / "a.json"
    output.write_json_lists(path, {"info": {"x": "ä"}}, {"one": iter([1, {"n": "日本"}]), "none": iter([])})
    assert json.loads(path.read_text()) == {"info": {"x": "ä"}, "one": [1, {"n": "日本"}], "none": []}


def test_the_same_arrays_give_the_same_bytes(output):
    for name in ("a.npz", "b.npz"):
        output.write_arrays(output.root / name, {"x": np.arange(5)})
    assert (output.root / "a.npz").read_bytes() == (output.root / "b.npz").read_bytes()


def test_other_settings_are_named_and_refused(output):
    ledger = StageLedger(output)
    ledger.begin("masks", {"U2SEG.MASKS": {"tau": 0.3}, "K": 1})
    ledger.check("masks", {"U2SEG.MASKS": {"tau": 0.6}, "K": 1})  # nothing was made yet
    output.write_json(output.stage_file("masks", "a.png", ".npz"), {})
    again = StageLedger(output)
    again.check("masks", {"U2SEG.MASKS": {"tau": 0.3}, "K": 1})
    with pytest.raises(UsageError, match=r"U2SEG\.MASKS\.tau was 0\.3 and is 0\.6.*--redo masks"):
        again.check("masks", {"U2SEG.MASKS": {"tau": 0.6}, "K": 1})


def test_redo_forgets_a_stage_and_those_after_it(output):
    ledger = StageLedger(output)
    for stage in ("masks", "cluster", "merge"):
        ledger.begin(stage, {})
        output.write_json(output.stages / stage / "x.json", {})
        ledger.finish(stage, {})
    output.write_json(output.root / "panoptic.json", {})
    ledger.forget_from("cluster")
    assert ledger.done("masks") == {}
    assert ledger.done("cluster") is None
    assert not (output.stages / "merge").exists()
    assert not (output.root / "panoptic.json").exists()
    assert (output.stages / "masks" / "x.json").exists()


def test_two_runs_in_one_directory(output):
    with output.locked(), pytest.raises(UsageError, match="another run"), output.locked():
        pass


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        OutputDirectory(tmp_path / "file" / "out").open()


def test_ids_are_coded_as_coco_does():
    ids = np.array([[0, 255, 256, 65536 * 3 + 7]], np.int32)
    colours = encode_ids(ids).astype(int)
    assert np.array_equal(colours @ [1, 256, 65536], ids)
