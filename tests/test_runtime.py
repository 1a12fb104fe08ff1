"""Threads and devices of workers."""

import torch

from u2seg.runtime import bounded_threads, worker_device


def test_threads_are_bounded_and_given_back():
    before = torch.get_num_threads()
    with bounded_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_named_device_stays_and_auto_fits_the_machine():
    assert worker_device("cpu") == "cpu"
    assert worker_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
