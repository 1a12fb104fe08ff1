"""What every command-line tool shares: one-line mistakes, whose warnings are shown, and how signals end a tool."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from u2seg.tool import ToolParser

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


def parser():
    tool = ToolParser(prog="a_tool.py")
    tool.add_argument("--resume", action="store_true")
    tool.add_argument("--name", default="")
    tool.add_argument("opts", nargs="*")
    return tool


@pytest.mark.parametrize(
    "words",
    [
        ["--resume", "--name", "n", "A.B", "1", "C", "-2"],
        ["A.B", "1", "C", "-2", "--resume", "--name", "n"],
        ["--name=n", "A.B", "1", "--resume", "C", "-2"],
    ],
)
def test_options_may_stand_before_and_behind_the_pairs(words):
    args = parser().parse_args(words)
    assert (args.resume, args.name) == (True, "n")
    assert args.opts == ["A.B", "1", "C", "-2"]


@pytest.mark.parametrize("value", ["-2", "-1e-5", "-.5"])
def test_a_negative_number_is_a_value(value):
    assert parser().parse_args(["A.B", value, "--resume"]).opts == ["A.B", value]


def test_a_mistake_is_one_line(capsys):
    with pytest.raises(SystemExit) as ending:
        parser().parse_args(["--name"])
    assert ending.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def run(code, **environment):
    program = "from u2seg.runtime import run_tool\n" + textwrap.dedent(code) + "\nraise SystemExit(run_tool(main))"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


WARNS = """
    def main():
        import warnings
        for module in ("torch.functional", "detectron2", "torches", "my_plugin"):
            warnings.warn_explicit(f"of {module}", FutureWarning, "file.py", 1, module)
"""


@pytest.mark.parametrize(("debug", "shown"), [("0", 2), ("1", 4)])
def test_warnings_of_libraries_are_not_shown_and_those_of_others_are(debug, shown):
    _, stderr = run(WARNS, U2SEG_DEBUG=debug).communicate(timeout=60)
    assert stderr.count("FutureWarning") == shown, stderr
    assert "of my_plugin" in stderr


BUSY = """
    import time

    def main():
        end, lines = time.monotonic() + 60, ["started"]
        while time.monotonic() < end:  # as compiled code that looks for no signals
            try:
                while lines:
                    print(lines.pop(), flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                pass
"""


@POSIX
def test_a_busy_tool_answers_and_a_second_ctrl_c_kills():
    with run(BUSY) as tool:
        assert tool.stdout.readline() == "started\n"
        tool.send_signal(2)
        assert tool.stderr.readline() == "stopping after the step that is running; Ctrl-C ends it at once\n"
        tool.send_signal(2)
        assert tool.wait(30) == 130


@POSIX
@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_that_comes_twice_at_once_counts_once(number, code):
    """As GNU timeout sends it, to the process and to its group."""
    cleaning = """
        import time

        def main():
            try:
                print("started", flush=True)
                time.sleep(60)
            finally:
                time.sleep(0.2)
                print("cleaned", flush=True)
    """
    with run(cleaning) as tool:
        assert tool.stdout.readline() == "started\n"
        tool.send_signal(number)
        time.sleep(0.05)
        tool.send_signal(number)
        stdout, stderr = tool.communicate(timeout=30)
    assert tool.returncode == code
    assert stdout == "cleaned\n"
    assert stderr.count("\n") == 1
    assert "stopped; what is done stays" in stderr


@POSIX
def test_the_error_of_a_worker_that_was_stopped_first_is_no_error():
    dies = """
        import time

        def main():
            try:
                print("started", flush=True)
                time.sleep(60)
            finally:
                raise RuntimeError("a worker is killed by signal: Terminated")
    """
    with run(dies) as tool:
        assert tool.stdout.readline() == "started\n"
        tool.terminate()
        _, stderr = tool.communicate(timeout=30)
    assert tool.returncode == 143
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("before", "shown"), [("", True), ("quiet()", False)])
def test_a_reader_that_ends_while_it_takes_a_tensor_is_no_news(before, shown):
    code = f"""
import os, socket
from multiprocessing import resource_sharer
from u2seg.tool import quiet
{before}
address = resource_sharer.DupFd(os.pipe()[0])._id[0]  # as a loader worker offers a tensor
taker = socket.socket(socket.AF_UNIX)
taker.connect(address)
taker.close()
resource_sharer.stop(timeout=5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("Traceback" in done.stderr) == shown, done.stderr
