"""The photos that ``DATASETS.TRAIN`` names, compared with their labels before training begins.

They lie in one file that all processes of a machine map into memory: there is one copy, whatever the number of GPUs and
of loader workers, and it is in the system's file cache.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode

from u2seg.data.whole_masks import training_entries
from u2seg.errors import DataError, U2SegError, UsageError
from u2seg.panoptic import read_ids
from u2seg.panoptic.codes import segment_areas
from u2seg.panoptic.photos import OnDemand

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
LABELS_TO_CHECK = 200
"""That are compared with the JSON before training: a second or so."""


def training_dicts(cfg: CfgNode) -> EntryFile:
    """Dataset dicts of ``DATASETS.TRAIN``, without those that have no segment to learn from.

    Raises:
        UsageError: no training set is named.
        DataError: nothing is left, or labels and their list contradict each other.
    """
    if not cfg.DATASETS.TRAIN:
        raise UsageError("DATASETS.TRAIN is empty: name the directory of a dataset, such as DATASETS.TRAIN my_labels")
    dicts = share_entries(functools.partial(_labelled, cfg))
    check_labels(dicts)
    return dicts


def _labelled(cfg: CfgNode) -> Iterator[Sample]:
    total = kept = 0
    for name in cfg.DATASETS.TRAIN:
        for entry in training_entries(name, cfg):
            labelled = bool(entry["segments_info"] or entry.get("thing_masks"))
            total, kept = total + 1, kept + labelled
            if labelled:
                yield entry
    if not kept:
        raise DataError(f"{', '.join(cfg.DATASETS.TRAIN)}: {total} photos, but none with a segment to learn from")
    if kept < total:
        logger.warning("%d of %d photos have no segment and are left out", total - kept, total)


def check_labels(dicts: Sequence[Sample], count: int = LABELS_TO_CHECK) -> None:
    """Compare some ``count`` PNGs, evenly spread over ``dicts``, with what is listed of them.

    Raises:
        DataError: a PNG is damaged or holds ids that are not listed, or no listed segment has a pixel.
    """
    listed = empty = 0
    for entry in (dicts[place] for place in range(0, len(dicts), -(-len(dicts) // count))):
        if "pan_seg_file_name" not in entry:  # a plugin's
            continue
        file, segments = entry["pan_seg_file_name"], [segment["id"] for segment in entry["segments_info"]]
        size = (entry["height"], entry["width"]) if "height" in entry else None
        areas = segment_areas(read_ids(file, size, "the dataset says"), segments, file)
        listed += len(areas)
        empty += int((areas == 0).sum())
    if empty:
        of_all = f"{empty} of {listed} segments of {min(count, len(dicts))} photos have no pixel in their PNG"
        if empty == listed:
            raise DataError(f"{of_all}, so nothing can be learnt")
        logger.warning("%s", of_all)


class EntryFile(OnDemand[Sample]):
    """Entries of a file that `write_entries` wrote; it may be closed and deleted once this is made.

    A tensor, since torch shares its memory with workers that are spawned, too.
    """

    def __init__(self, file: BinaryIO, ends: array[int]) -> None:
        self._content = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
        self._ends = torch.frombuffer(array("q", [0]) + ends, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, place: int) -> Sample:
        """The entry at ``place``."""
        start, end = self._ends[place : place + 2].tolist()
        return pickle.loads(memoryview(self._content[start:end].numpy()))  # type: ignore[arg-type]


def write_entries(file: BinaryIO, entries: Iterable[Sample]) -> array[int]:
    """Write the pickles of ``entries`` one at a time; where each ends."""
    ends = array("q")
    for entry in entries:
        file.write(pickle.dumps(entry, -1))
        ends.append(file.tell())
    file.flush()
    return ends


def share_entries(entries: Callable[[], Iterable[Sample]]) -> EntryFile:
    """The entries that ``entries`` gives, one or more, called in one process of each machine; all processes call this.

    The file lies in the folder for temporary files (``TMPDIR``) and never has a name, so that nothing is left of
    processes that are killed: the other ones of the machine open it through ``/proc``.

    Raises:
        UsageError: the file can't be written.
        U2SegError: what ``entries`` raised, in every process.
    """
    file: BinaryIO
    first = comm.get_rank() - comm.get_local_rank()
    path, ends, error = "", array("q"), None
    with _in_words(), contextlib.ExitStack() as stack:  # closing the file may fail on what writing failed on
        try:
            if comm.get_rank() == first:
                with _in_words():
                    file = stack.enter_context(tempfile.TemporaryFile())
                    ends = write_entries(file, entries())
                path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        except (U2SegError, OSError) as reason:
            error = reason
        results = comm.all_gather((path, ends, error))
        for *_, each in results:
            if each is not None:
                raise each
        path, ends, _ = results[first]
        if comm.get_rank() != first:
            file = stack.enter_context(open(path, "rb"))
        of_all = EntryFile(file, ends)
        comm.synchronize()
        return of_all


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Say what keeps the file from being written; of other files, the system's errors have the names."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise UsageError(
            f"the list of the photos to train on can't be written to {tempfile.tempdir}: {error.strerror}; "
            "the environment variable TMPDIR names another folder"
        ) from error
