"""What is learnt once over the whole set, with a note of what it was learnt on: ``clusters.npz`` and ``stuff.npz``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UsageError
from u2seg.files import write_arrays
from u2seg.pseudo.intermediate import DamagedFileError, load_arrays, undamaged
from u2seg.pseudo.ledger import shorten, tree_changes

_NOTE = "learnt_on"


@dataclass(frozen=True)
class Fitted:
    """The state of a clusterer or a stuff segmenter."""

    state: dict[str, np.ndarray]
    learnt_on: Mapping[str, Any]
    """The settings of the features that it was learnt on."""
    fingerprint: str
    """Of the product, as `u2seg.pseudo.ledger` has it."""


def write_fitted(path: Path, fitted: Fitted) -> None:
    """Write ``fitted`` to ``path``."""
    note = json.dumps({"settings": fitted.learnt_on, "fingerprint": fitted.fingerprint}, sort_keys=True)
    write_arrays(path, {**fitted.state, _NOTE: np.array(note)})


def read_fitted(path: str | Path) -> Fitted:
    """Read what `write_fitted` wrote.

    Raises:
        DamagedFileError: it is missing or damaged.
    """
    with undamaged(Path(path)):
        arrays = load_arrays(Path(path).read_bytes())
    if _NOTE not in arrays:
        raise DamagedFileError(f"{path} does not say what it was learnt on")
    note = json.loads(str(arrays.pop(_NOTE)))
    return Fitted(arrays, note["settings"], note["fingerprint"])


def current_fitted(path: Path, fingerprint: str) -> Fitted | None:
    """What ``path`` holds, if it was made with ``fingerprint``; else None."""
    if not path.is_file():
        return None
    try:
        fitted = read_fitted(path)
    except DamagedFileError:
        return None
    return fitted if fitted.fingerprint == fingerprint else None


def reuse_fitted(directory: str, name: str, learnt_on: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state that an earlier run in ``directory`` has saved in ``name``, learnt on features of the same settings.

    Raises:
        UsageError: it can't be read, or was learnt on other features.
    """
    key = f"U2SEG.CLUSTERS.REUSE {directory!r}"
    path = Path(directory).expanduser() / name
    if not path.is_file():
        raise UsageError(f"{key} must be the --output of an earlier run: it holds no {name}")
    try:  # it is left alone even where it is damaged
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # numpy and zipfile raise nearly anything on half a file
        raise UsageError(f"{key}: {name} can't be read ({type(error).__name__})") from error
    if _NOTE not in arrays:
        raise UsageError(f"{key}: {name} was made by an older u2seg, which did not note what it was learnt on")
    before = json.loads(str(arrays.pop(_NOTE)))["settings"]
    changes = "; ".join(
        f"{setting} was {shorten(was)} there and is {shorten(now)} here"
        for setting, was, now in tree_changes(before, json.loads(json.dumps(learnt_on)))
    )
    if changes:
        raise UsageError(f"{key}: {name} was learnt on other features than this run has: {changes}")
    return arrays
