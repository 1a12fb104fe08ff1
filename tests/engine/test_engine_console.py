"""What tools/train_net.py shows, what it writes to log.txt, and how it ends when it is told to."""

import logging
import signal
import subprocess
import sys
import threading
import types

import pytest
from synthetic_panoptic import TINY_CONFIG
from training_tool import TOOL

from u2seg.engine.console import LOSSES, TerminalFilter

LONG = ["SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", "1"]


def command(options, *flags, processes=0):
    return [sys.executable, str(TOOL), "--num-gpus", str(processes), "--config-file", TINY_CONFIG, *flags, *options]


def test_the_terminal_stays_short_and_the_log_is_whole(options, tmp_path):
    done = subprocess.run(command(options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "\x1b" not in log + done.stdout
    assert "total_loss" in log
    assert "total_loss" in done.stdout
    assert "IMS_PER_BATCH" in log
    assert "Environment info" in log
    assert "U2SegPanopticFPN(" in log
    assert len(done.stdout.splitlines()) < 40 < 400 < len(log.splitlines())


@pytest.mark.parametrize(
    ("number", "code", "processes"),
    [("SIGTERM", 143, 0), pytest.param("SIGINT", 130, 2, marks=pytest.mark.slow)],
)
def test_a_training_that_is_told_to_stop_ends_with_its_processes(options, number, code, processes):
    with subprocess.Popen(
        command([*options, *LONG], "--dist-url", "auto", processes=processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tool:
        while "total_loss" not in tool.stdout.readline():
            assert tool.poll() is None, tool.stderr.read()
        tool.send_signal(getattr(signal, number))
        _, stderr = tool.communicate(timeout=60)
    assert tool.returncode == code
    assert stderr.splitlines()[-1].endswith("run the same command with --resume to resume from the last checkpoint")
    assert "Traceback" not in stderr


def test_help_and_a_missing_config_need_no_detectron2():
    code = (
        "import runpy, sys; sys.modules['detectron2'] = sys.modules['torch'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for flags, ending, lines in ((["--help"], 0, 30), ([], 2, 1)):
        done = subprocess.run([sys.executable, "-c", code, TOOL, *flags], capture_output=True, text=True, check=False)
        assert done.returncode == ending
        assert len((done.stdout + done.stderr).splitlines()) >= lines
        assert "--config-file" in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1


def test_losses_show_at_a_readers_pace_and_pages_go_to_the_log_alone():
    def record(name, message, created, **more):
        return logging.makeLogRecord({"name": name, "msg": message, "created": created, **more})

    shown = TerminalFilter().filter
    assert [
        shown(record("d2.utils.events", "total_loss", second)) for second in (10.0, 10.5, 11.9, 12.1, 13.0, 20.0)
    ] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    assert shown(record("detectron2.engine.defaults", "one line", 0.0))
    assert not shown(record("detectron2.engine.defaults", "Model:\nof many", 0.0))
    assert not shown(record("u2seg.engine.console", "config\nof many", 0.0))
    assert shown(record("u2seg.anything", "a\nb", 0.0))


def test_slow_iterations_are_logged_one_by_one(options, monkeypatch, caplog):
    from training_tool import setup

    from u2seg.engine import console
    from u2seg.engine.trainer import Trainer

    monkeypatch.setattr(console, "SECONDS_WITHOUT_LINE", 0.0)
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    trainer = Trainer(setup([*options, "SOLVER.MAX_ITER", "3"]))
    trainer.register_hooks([console.RegularLines()])
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    trainer.resume_or_load(False)
    with caplog.at_level(logging.INFO):
        trainer.train()
    lines = [record.getMessage() for record in caplog.records if record.name.endswith(LOSSES)]
    assert [f"iter: {number} " in line for number, line in enumerate(lines)] == [True, True, True]


@pytest.mark.parametrize(
    ("iteration", "last_done", "is_told"), [(7, 6, True), (7, 7, False), (9, 8, False), (0, None, True)]
)
def test_an_iteration_that_does_not_end_is_told_of_and_no_evaluation(
    iteration, last_done, is_told, monkeypatch, caplog
):
    from u2seg.engine import console

    monkeypatch.setattr(console, "SECONDS_WITHOUT_LINE", 0.05)
    hook, looked = console.RegularLines(), threading.Semaphore(0)

    def latest():
        looked.release()
        return {} if last_done is None else {"total_loss": (1.0, last_done)}

    storage = types.SimpleNamespace(latest=latest)
    hook.trainer = types.SimpleNamespace(iter=iteration, max_iter=9, storage=storage)
    with caplog.at_level(logging.INFO, "u2seg.engine.console"):
        hook.before_train()
        hook.before_step()
        for _ in range(4):
            assert looked.acquire(timeout=30)
        hook.after_train()
    assert bool(caplog.messages) == is_told
    assert all(text.startswith(f"iteration {iteration} has taken ") for text in caplog.messages)
