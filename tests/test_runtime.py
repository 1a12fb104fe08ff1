"""Threads and devices of workers."""

import logging

import torch

from u2seg.errors import UsageError
from u2seg.runtime import bounded_threads, run_tool, worker_device


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
