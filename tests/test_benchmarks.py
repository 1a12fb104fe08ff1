"""What the benchmarks share: processor time of processes whose parent is not the benchmark."""

import subprocess
import sys
from pathlib import Path

import pytest

HELPER = Path(__file__).parent / "benchmarks" / "_processes.py"
TOOL = """
import time
from u2seg.executors import make_executor

def work():
    end = time.process_time() + 1.5
    while time.process_time() < end:
        pass

if __name__ == "__main__":
    with make_executor("process", 1, 1) as executor:
        executor.submit(work).result()
"""
BENCHMARK = """
import runpy, subprocess, sys, time
processes = runpy.run_path(sys.argv[1])
processes["adopt_orphans"]()
assert processes["processor_seconds"]() == 0
subprocess.run([sys.executable, sys.argv[2]], check=True)
print(processes["processor_seconds"]())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the server that workers are forked from is Linux's")
def test_processor_time_of_workers_that_the_fork_server_starts_is_counted(tmp_path):
    tool, idle = tmp_path / "tool.py", tmp_path / "idle.py"
    tool.write_text(TOOL)
    idle.write_text(TOOL.replace("1.5", "0.0"))
    # Apart from pytest's process, whose other children must not be waited for.
    command = [sys.executable, "-c", BENCHMARK, str(HELPER)]
    busy, without = (float(subprocess.check_output([*command, str(script)])) for script in (tool, idle))
    assert busy - without > 1
