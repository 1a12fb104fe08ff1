"""Matchings in a file: which class each cluster got under each policy, and the counts that decided."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.dataset import read_json
from u2seg.evaluation.fitting import matched
from u2seg.evaluation.joined import VOID

FORMAT = "u2seg matching 1"
MATCHING_FILE = "matching.json"


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` under a temporary name and rename it, so that the file is whole or absent; nan becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def save_matching(path: Path, fitted: Comparison, policies: Sequence[str], fitted_on: str) -> None:
    """Fit every policy on ``fitted`` and write what came out.

    Args:
        path: the file to write.
        fitted: the labels to fit on.
        policies: those to fit.
        fitted_on: name of that set, for the record.
    """
    taxonomy = fitted.taxonomy
    ids = fitted.cluster_ids.tolist()
    record: dict[str, Any] = {}
    for policy in policies:
        counts = fitted.counts(policy, fitted.cluster)
        rows, columns = np.nonzero(counts)
        of_cluster = matched(fitted, policy, fitted.cluster).tolist()
        record[policy] = {
            "class_of_cluster": {
                str(index): None if found == VOID else found for index, found in zip(ids, of_cluster, strict=True)
            },
            "counts": [
                [ids[row], column, int(counts[row, column])]
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            ],
        }
    content = {
        "format": FORMAT,
        "fitted_on": fitted_on,
        "photos": fitted.overlaps.num_images,
        "note": "class_of_cluster: category_id to an index of 'classes'; counts: [category_id, class, how much]",
        "classes": [
            {"name": name, "isthing": bool(flag)} for name, flag in zip(taxonomy.names, taxonomy.isthing, strict=True)
        ],
        "policies": record,
    }
    write_json(path, content)


def load_matching(path: Path, scored: Comparison) -> dict[str, np.ndarray]:
    """Policy to class int64 (L,) of each cluster of ``scored``, -1 for none.

    Raises:
        UsageError: there is no such file.
        DataError: it is no saved matching, or one of other clusters or classes.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no matching saved by --save-matching")
    taxonomy = scored.taxonomy
    here = {(name, bool(flag)): i for i, (name, flag) in enumerate(zip(taxonomy.names, taxonomy.isthing, strict=True))}
    try:
        there = [(entry["name"], entry["isthing"]) for entry in content["classes"]]
        unknown = [name for name, isthing in there if (name, isthing) not in here]
        if unknown:
            raise DataError(
                f"{path} was fitted to other classes: there is no {unknown[0]!r} here (see --gt-things, --gt-stuff)"
            )
        tables = {name: entry["class_of_cluster"] for name, entry in content["policies"].items()}
        found = {}
        for policy, table in tables.items():
            if {int(index) for index in table} != set(scored.cluster_ids.tolist()):
                raise DataError(f"{path} holds {len(table)} clusters that are not the {len(scored.cluster_ids)} here")
            classes = [table[str(index)] for index in scored.cluster_ids.tolist()]
            found[policy] = np.array([VOID if c is None else here[there[c]] for c in classes], np.int64)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no whole matching: {type(error).__name__} {error}") from error
    return found


def directory_name(dataset: str) -> str:
    """A folder name for a dataset: its own if it is a plain name; for a path, the last part and a short digest."""
    path = dataset.rpartition("://")[2]
    if not any(separator in path for separator in "/\\") and not Path(path).is_dir():
        return path
    absolute = Path(path).expanduser().absolute().as_posix()
    return f"{Path(absolute).name}-{hashlib.sha256(absolute.encode()).hexdigest()[:8]}"


def matching_file(fit_on: str, results: Path) -> Path:
    """``fit_on`` itself if it is a file; else where the evaluation on a dataset of that name leaves its matching.

    Args:
        fit_on: a file, or a dataset's name or directory.
        results: folder of the results of all datasets.
    """
    return Path(fit_on) if Path(fit_on).is_file() else results / directory_name(fit_on) / MATCHING_FILE
