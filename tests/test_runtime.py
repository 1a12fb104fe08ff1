"""The same results whoever runs the jobs."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from u2seg.errors import U2SegError, UsageError
from u2seg.runtime import (
    InlineExecutor,
    bounded_threads,
    make_executor,
    run_in_order,
    run_jobs,
    run_tool,
    worker_device,
)


def square(number):
    return number * number


def die(number):
    os._exit(9)


def fail(number):
    raise ValueError(f"job {number}")


@pytest.mark.parametrize("make", [InlineExecutor, lambda: ThreadPoolExecutor(3)], ids=["inline", "threads"])
def test_each_job_is_done_once(make):
    found = {}
    with make() as executor:
        run_jobs(executor, square, list(range(20)), found.__setitem__)
        assert list(run_in_order(executor, square, list(range(20)), window=3)) == [n * n for n in range(20)]
    assert found == {n: n * n for n in range(20)}


def test_an_error_of_a_job_reaches_the_caller():
    with ThreadPoolExecutor(2) as executor, pytest.raises(ValueError, match="job"):
        run_jobs(executor, fail, [1, 2, 3], lambda job, result: None)


def test_a_worker_that_dies_is_said_in_words():
    with make_executor("process", 2, 1) as executor, pytest.raises(U2SegError, match="a worker process died"):
        run_jobs(executor, die, [1], lambda job, result: None)
    with make_executor("process", 2, 1) as executor, pytest.raises(U2SegError, match="a worker process died"):
        list(run_in_order(executor, die, [1], window=2))


def test_wrong_executors_are_refused():
    with pytest.raises(UsageError, match=r"no executor .*'proces'.*Did you mean 'process'"):
        make_executor("proces", 1, 1)
    with pytest.raises(UsageError, match="ADDRESS"):
        make_executor("dask", 1, 1)
    with pytest.raises(UsageError, match="WORKERS"):
        make_executor("process", -1, 1)


def test_threads_are_bounded_and_given_back():
    before = torch.get_num_threads()
    with bounded_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_named_device_stays_and_auto_fits_the_machine():
    assert worker_device("cpu") == "cpu"
    assert worker_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_control_characters_of_names_never_reach_the_terminal(capsys, caplog):
    name = "a\x1b[31mb\x07caf\udce9.jpg"

    def main():
        logging.getLogger("u2seg.anything").warning("photo %s", name)
        raise UsageError(f"{name} is bad")

    factory = logging.getLogRecordFactory()
    assert run_tool(main) == 2
    assert logging.getLogRecordFactory() is factory
    text = caplog.text + capsys.readouterr().err
    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.count("b\N{REPLACEMENT CHARACTER}caf\N{REPLACEMENT CHARACTER}.jpg") == 2
