"""A training set that processes share: whole, in its order, in one file that leaves nothing behind."""

import os
import pickle
import resource
import tempfile

import pytest
import torch
import torch.multiprocessing

from u2seg.data.training_set import EntryFile, share_entries, write_entries
from u2seg.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("count", [1, 2, 9, 300])
def test_entries_come_back_in_their_order(folder, count):
    entries = [{"name": "é" * index, "masks": [index] * (index % 5)} for index in range(count)]
    shared = share_entries(lambda: iter(entries))
    assert list(shared) == entries
    assert shared[1:] == entries[1:]
    assert not list(folder.iterdir())
    with pytest.raises(IndexError):
        shared[count]


def test_what_comes_first_is_not_kept_in_memory(folder):
    with open(folder / "a", "wb") as file:
        ends = write_entries(file, ({"text": "x" * 1000, "number": number} for number in range(3000)))
    with open(folder / "a", "rb") as file:
        shared = EntryFile(file, ends)
    assert shared[2999]["number"] == 2999
    assert (folder / "a").stat().st_size < 3000 * 1100


def test_an_error_leaves_nothing_behind(folder):
    def broken():
        yield {}
        raise DataError("damaged")

    with pytest.raises(DataError, match="damaged"):
        share_entries(broken)
    assert not list(folder.iterdir())


def test_a_full_disk_and_no_folder_are_said_with_the_remedy(folder, monkeypatch):
    def too_much():
        yield {"text": "x" * 10**6}

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # Python ignores the signal: a write fails
    try:
        with pytest.raises(UsageError, match=r"photos to train on can't be written to .*File too large; .* TMPDIR"):
            share_entries(too_much)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    def unreadable():
        yield {}
        (folder / "none").read_bytes()

    with pytest.raises(FileNotFoundError):
        share_entries(unreadable)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "none")))
    with pytest.raises(UsageError, match=r"none; .* TMPDIR"):
        share_entries(dict)
    assert not list(folder.iterdir())


def test_the_file_of_one_process_has_no_name(folder):
    shared = share_entries(lambda: ({"files": len(list(folder.iterdir()))} for _ in range(2)))
    assert [entry["files"] for entry in shared] == [0, 0]


def _add_up(shared, results):
    results.put(sum(entry["number"] for entry in shared))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_either_kind_read_it(method):
    shared = share_entries(lambda: ({"number": number} for number in range(50)))
    context = torch.multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=_add_up, args=(shared, results))
    worker.start()
    assert results.get(timeout=120) == sum(range(50))
    worker.join()
    assert pickle.loads(pickle.dumps(shared))[7] == {"number": 7}


def _in_group(rank, address, folder):
    from detectron2.utils import comm

    torch.distributed.init_process_group("gloo", address, world_size=2, rank=rank)
    comm.create_local_process_group(2)
    tempfile.tempdir = folder

    def entries():
        assert rank == 0, "the others do not read the set"
        return ({"number": number, "files": os.listdir(folder)} for number in range(20))

    def broken():
        raise DataError("damaged")

    def full():
        yield from ({} for _ in range(2))
        raise OSError(28, "full")

    shared = list(share_entries(entries))
    assert [entry["number"] for entry in shared] == list(range(20))
    assert not any(entry["files"] for entry in shared)  # so nothing is left of processes that are killed
    with pytest.raises(UsageError, match=r"full; .*TMPDIR"):
        share_entries(full)
    with pytest.raises(DataError, match="damaged"):
        share_entries(broken)
    comm.synchronize()  # so that none ends while another still receives
    torch.distributed.destroy_process_group()


def test_one_process_of_a_machine_writes_for_all(folder):
    (folder / "entries").mkdir()
    address = f"file://{folder / 'rendezvous'}"
    torch.multiprocessing.spawn(_in_group, (address, str(folder / "entries")), nprocs=2)
    assert not list((folder / "entries").iterdir())
