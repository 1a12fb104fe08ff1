"""The same results whoever runs the jobs, and workers that die, hang or leave cost only what they were at."""

import math
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from u2seg.errors import U2SegError, UsageError
from u2seg.executors import InlineExecutor, ProcessExecutor, make_executor
from u2seg.jobs import Lost, run_in_order, run_jobs
from u2seg.runtime import at_work


def squares(numbers):
    return [number**2 for number in numbers]


def square(number):
    return number**2


def fail(numbers):
    raise ValueError(f"job {numbers}")


def die(number):
    os._exit(9)


def misbehave(numbers):
    """Squares, but for some numbers whose worker comes to an end."""
    ends = {
        3: lambda: os._exit(7),
        5: lambda: os.kill(os.getpid(), signal.SIGSEGV),
        6: lambda: time.sleep(600),
    }
    for number in numbers:
        ends.get(number, lambda: None)()
    return squares(numbers)


def misbehave_at_work(numbers):
    """As `misbehave`, first at a part that goes well, then at another."""
    with at_work("part one"):
        pass
    with at_work("part two"):
        return misbehave(numbers)


class Numbers(tuple):
    """A job."""

    seconds = math.inf

    def split(self):
        return [type(self)([number]) for number in self]


class Hasty(Numbers):
    """One that hangs after three seconds."""

    seconds = 3.0


def collect(executor, function, jobs, kind=Numbers):
    """Results, and reasons for losses, by number."""
    results, reasons = {}, {}
    for job, result in run_jobs(executor, function, map(kind, jobs)):
        if isinstance(result, Lost):
            reasons[job[0]] = result.reason
        else:
            results.update(zip(job, result, strict=True))
    return results, reasons


@pytest.mark.parametrize(
    "make",
    [InlineExecutor, lambda: ThreadPoolExecutor(3), lambda: ProcessExecutor(2)],
    ids=["inline", "threads", "processes"],
)
def test_each_job_is_done_once(make):
    with make() as executor:
        results, reasons = collect(executor, squares, [(n, n + 1) for n in range(0, 20, 2)])
        assert list(run_in_order(executor, square, list(range(20)), window=3)) == [n * n for n in range(20)]
    assert results == {n: n * n for n in range(20)}
    assert not reasons


def test_an_error_of_a_job_reaches_the_caller():
    with ThreadPoolExecutor(2) as executor, pytest.raises(ValueError, match="job"):
        collect(executor, fail, [(1,), (2,), (3,)])


def test_what_takes_workers_down_is_put_aside_by_name_and_the_rest_is_done():
    with ProcessExecutor(2) as executor:
        results, reasons = collect(executor, misbehave, [(0, 1), (2, 3), (4, 5), (7, 9)])
    assert results == {n: n * n for n in (0, 1, 2, 4, 7, 9)}
    assert reasons.keys() == {3, 5}
    assert "exit code 7" in reasons[3]
    assert "SIGSEGV" in reasons[5]


def test_what_a_worker_was_at_when_it_died_or_hung_is_named(monkeypatch):
    monkeypatch.setattr("u2seg.jobs.SECONDS_TO_START", 5.0)
    with ProcessExecutor(1) as executor:
        results, reasons = collect(executor, misbehave_at_work, [(3,), (6,), (7,)], Hasty)
    assert results == {7: 49}
    assert reasons == {
        3: "takes its worker process down (exit code 7) in part two",
        6: "takes longer than 3 s in part two",
    }


def test_a_death_on_a_cluster_costs_no_job_that_is_at_work_elsewhere():
    class Cluster(ThreadPoolExecutor):
        """Workers that say that they died, one by one; the others live on."""

        deaths = (ZeroDivisionError,)
        workers = 4

    def work(numbers):
        if 3 in numbers:
            raise ZeroDivisionError
        time.sleep(0.3)
        return squares(numbers)

    with Cluster(4) as executor:
        results, reasons = collect(executor, work, [(n, n + 1) for n in range(0, 20, 2)])
    assert results == {n: n * n for n in range(20) if n != 3}
    assert reasons.keys() == {3}


def test_a_machine_on_which_every_photo_takes_its_worker_down_is_blamed(monkeypatch):
    monkeypatch.setattr("u2seg.jobs.MOST_DEATHS", 1)
    with ProcessExecutor(1) as executor, pytest.raises(U2SegError, match="more than 1 workers died"):
        collect(executor, die, [(1, 2, 3)])


def test_a_worker_that_dies_in_a_stream_is_said_in_words():
    with make_executor("process", 1, 1) as executor, pytest.raises(U2SegError, match="a worker process died"):
        list(run_in_order(executor, die, [1], window=2))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_workers_end_with_their_parent(tmp_path):
    script = """
        import os, sys, time
        from u2seg.executors import ProcessExecutor

        def work(folder):
            open(os.path.join(folder, str(os.getpid())), "w").close()
            time.sleep(600)

        if __name__ == "__main__":
            executor = ProcessExecutor(1)
            executor.submit(work, sys.argv[1]).result()
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(script))
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path / "pids"])
    until(lambda: any((tmp_path / "pids").iterdir()))
    parent.kill()
    parent.wait()
    (worker,) = (int(path.name) for path in (tmp_path / "pids").iterdir())
    until(lambda: not is_alive(worker))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_what_takes_long_to_import_is_imported_once_for_all_workers_which_end_with_their_server(tmp_path):
    script = """
        import os, sys
        import sklearn.cluster
        from u2seg.executors import ProcessExecutor

        def loaded(name):
            return name in sys.modules, os.getppid()

        if __name__ == "__main__":
            with ProcessExecutor(2, ("sklearn.cluster", "torch")) as executor:
                for name in ("sklearn.cluster", "torch"):
                    print(*executor.submit(loaded, name).result(), os.getpid())
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(script))
    command = [sys.executable, tmp_path / "parent.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [has for has, _, _ in rows] == ["True", "False"], "what the parent has imported, and no more"
    ((server, parent),) = {(server, parent) for _, server, parent in rows}
    assert server != parent
    until(lambda: not is_alive(int(server)))


def test_workers_have_the_environment_of_their_parent_as_it_is_now(monkeypatch):
    for value in ("before", "after"):
        monkeypatch.setenv("U2SEG_TEST", value)
        with ProcessExecutor(1) as executor:
            assert executor.submit(os.getenv, "U2SEG_TEST").result() == value
    monkeypatch.delenv("U2SEG_TEST")
    with ProcessExecutor(1) as executor:
        assert executor.submit(os.getenv, "U2SEG_TEST").result() is None


def page_faults(rounds):
    """Pages that the kernel has cleared for arrays of which three of 20 MB are alive at a time, after a first round."""
    import resource

    for round_ in range(rounds + 1):
        arrays = [b"a" * 20 * 2**20 for _ in range(3)]  # numpy's would be of huge pages
        del arrays
        if not round_:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not platform.libc_ver()[0], reason="needs glibc")
def test_workers_keep_the_memory_of_arrays():
    with ProcessExecutor(1) as executor:
        assert executor.submit(page_faults, 5).result() < 1000  # each array has 5,120 pages
    code = "import test_jobs; assert test_jobs.page_faults(5) > 10_000"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(__file__))


def until(condition, seconds=60):
    """Wait for ``condition``, at most ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def is_alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_wrong_executors_are_refused():
    with pytest.raises(UsageError, match=r"no executor .*'proces'.*Did you mean 'process'"):
        make_executor("proces", 1, 1)
    with pytest.raises(UsageError, match="ADDRESS"):
        make_executor("dask", 1, 1)
