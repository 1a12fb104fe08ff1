"""Output directories of training runs: damage, full disks, killed runs and second runs cost no checkpoint."""

import fcntl
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from synthetic_panoptic import TINY_CONFIG, write_dataset
from training_tool import TOOL, exit_code, setup, train_net

from u2seg import weights_file
from u2seg.engine.output_dir import last_checkpoint, newest_checkpoint
from u2seg.engine.trainer import Trainer
from u2seg.errors import DataError
from u2seg.files import claim_directory


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(train_net, "register_detectron2", lambda: None)
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """The output directory of a run of three steps that saved each."""
    root = tmp_path_factory.mktemp("three_steps")
    labels = str(write_dataset(root / "labels"))
    options = ["DATASETS.TRAIN", labels, "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_net, "register_detectron2", lambda: None)
        assert exit_code([*options, "OUTPUT_DIR", str(root / "out")]) == 0
    (root / "out" / "model_final.pth").unlink()
    (root / "out" / "last_checkpoint").write_text("model_0000002.pth")
    return options, root / "out"


@pytest.fixture
def trained(three_steps, tmp_path):
    """Options of that run, and its output directory in a place where it may be damaged."""
    options, out = three_steps
    out = shutil.copytree(out, tmp_path / "out")
    return [*options, "OUTPUT_DIR", str(out)], out


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def start_of(options):
    trainer = Trainer(setup(options, "--resume"))
    trainer.resume_or_load(resume=True)
    return trainer.start_iter


DAMAGE = {"half": half, "empty": lambda path: path.write_bytes(b""), "flipped bit": flip, "gone": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(trained, caplog, damage):
    options, out = trained
    damage(out / "model_0000002.pth")
    with caplog.at_level(logging.WARNING, "u2seg.engine.output_dir"):
        assert newest_checkpoint(out) == str(out / "model_0000001.pth")
    assert "model_0000001.pth is the newest" in caplog.messages[-1]
    assert damage is Path.unlink or "model_0000002.pth are damaged" in caplog.messages[0]
    assert start_of(options) == 2


MARKERS = {"missing": None, "empty": b"", "binary": b"\xff\xfe\0", "a path": b"../x/y.pth", "no checkpoint": b"log.txt"}


@pytest.mark.parametrize("content", MARKERS.values(), ids=MARKERS)
def test_a_missing_or_damaged_note_of_the_last_checkpoint_is_made_up_for(trained, content):
    options, out = trained
    (out / "last_checkpoint").unlink()
    if content is not None:
        (out / "last_checkpoint").write_bytes(content)
    assert start_of(options) == 3


def test_a_note_that_is_missing_is_written_again(trained):
    options, out = trained
    (out / "last_checkpoint").unlink()
    assert exit_code([*options, "SOLVER.MAX_ITER", "4"], "--resume") == 0
    assert last_checkpoint(out) == str(out / "model_final.pth")
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 3


def test_no_whole_checkpoint_is_no_new_start(trained, capsys):
    options, out = trained
    for file in out.glob("*.pth"):
        flip(file)
    with pytest.raises(DataError, match=r"no checkpoint in .*out is whole: .*model_0000002\.pth.*without --resume"):
        newest_checkpoint(out)
    assert exit_code(options, "--resume") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("train without --resume to start anew")


def test_nothing_to_resume_is_a_new_start(options, tmp_path):
    assert newest_checkpoint(tmp_path / "none") == ""
    assert start_of(options) == 0


def test_a_full_disk_is_one_line_and_no_fault_of_the_users(trained, capsys, monkeypatch):
    options, out = trained
    before = {file: file.read_bytes() for file in out.glob("model_*.pth")}

    def on_a_full_disk(path, content):
        Path("/dev/full").write_bytes(content)

    monkeypatch.setattr(weights_file, "write_bytes", on_a_full_disk)
    capsys.readouterr()
    assert exit_code([*options, "SOLVER.MAX_ITER", "4"], "--resume") == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower() or "Traceback" in line]
    assert len(error) == 1
    assert f"the disk is full: {out / 'model_0000003.pth'}; what is done stays" in error[0]
    assert before == {file: file.read_bytes() for file in out.glob("model_*.pth")}


def test_a_second_training_in_one_directory_is_refused(options, tmp_path, capsys):
    out = claim_directory(tmp_path / "out", "a training run")
    with open(out / "lock", "w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        assert exit_code(options) == 2
        assert "another training is at work in OUTPUT_DIR" in capsys.readouterr().err.splitlines()[-1]
        assert not (out / "config.yaml").exists()
        with pytest.raises(ValueError, match="--eval-only needs a trained model"):  # scoring is in nobody's way
            setup([*options, "DATASETS.TEST", options[1]], "--eval-only", "--resume")
    assert exit_code(options) == 0


def test_what_killed_runs_left_half_written_is_swept(options, tmp_path):
    out = claim_directory(tmp_path / "out", "a training run")
    parts = [out / f".{'0a' * 16}.part{ending}" for ending in (".pth", "")]
    others = [out / name for name in (".hidden.part.pth", "notes.part", "model.pth")]
    for path in (*parts, *others):
        path.write_bytes(b"x")
    assert exit_code(options) == 0
    assert not any(path.exists() for path in parts)
    assert all(path.exists() for path in others)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_no_checkpoint(options, tmp_path):
    out, clock = tmp_path / "out", random.Random(0)
    more = ["SOLVER.MAX_ITER", "1000", "SOLVER.CHECKPOINT_PERIOD", "1", "DATALOADER.NUM_WORKERS", "1"]
    command = [sys.executable, str(TOOL), "--num-gpus", "0", "--config-file", str(TINY_CONFIG), "--resume"]
    for _ in range(6):
        saved = last_checkpoint(out)
        with subprocess.Popen([*command, *options, *more], stderr=subprocess.PIPE, text=True) as run:
            while last_checkpoint(out) == saved and run.poll() is None:
                time.sleep(0.01)
            time.sleep(clock.random() / 2)
            run.kill()
            _, stderr = run.communicate()
        assert run.returncode == -signal.SIGKILL, stderr
        start = int(saved[-11:-4]) + 1 if saved else 0
        assert f"Starting training from iteration {start}\n" in (out / "log.txt").read_text()
        assert newest_checkpoint(out) == last_checkpoint(out)
