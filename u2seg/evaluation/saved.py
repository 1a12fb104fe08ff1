"""Matchings in a file: which class each cluster got under each policy, and the counts that decided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.tables import VOID
from u2seg.files import in_words, write_json
from u2seg.panoptic import read_json

FORMAT = "u2seg matching 1"
MATCHING_FILE = "matching.json"


def save_matching(path: Path, fitted: Comparison, policies: Sequence[str], fitted_on: str) -> None:
    """Write the matchings that are fitted on ``fitted``, a set called ``fitted_on``, by each of the ``policies``."""
    ids = fitted.cluster_ids.tolist()
    record: dict[str, Any] = {}
    for policy in policies:
        counts = fitted.counts(policy, fitted.cluster)
        classes = fitted.matched(policy, fitted.cluster).tolist()
        pairs = np.argwhere(counts).tolist()
        record[policy] = {
            "class_of_cluster": {i: None if c == VOID else c for i, c in zip(ids, classes, strict=True)},
            "counts": [[ids[cluster], label, int(counts[cluster, label])] for cluster, label in pairs],
        }
    content = {
        "format": FORMAT,
        "fitted_on": fitted_on,
        "photos": fitted.table.num_images,
        "note": "class_of_cluster: category_id to an index of 'classes'; counts: [category_id, class, how much]",
        "classes": [{"name": name, "isthing": isthing} for name, isthing in fitted.taxonomy.keys],
        "policies": record,
    }
    with in_words(path):
        write_json(path, content)


def read_matching(path: str | Path) -> tuple[list[tuple[str, bool]], dict[str, dict[int, int | None]]]:
    """Read a file of `save_matching`.

    Returns:
        Name of each class and whether it is a thing; for each policy, the index of each cluster's class, None for none.

    Raises:
        UsageError: there is no such file.
        DataError: it is no saved matching.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no matching saved by --save-matching")
    try:
        classes = [(str(entry["name"]), bool(entry["isthing"])) for entry in content["classes"]]
        matchings = {
            policy: {int(cluster): index for cluster, index in entry["class_of_cluster"].items()}
            for policy, entry in content["policies"].items()
        }
        indices = {index for matching in matchings.values() for index in matching.values()} - {None}
        if not indices <= set(range(len(classes))):
            raise IndexError("a cluster has a class that is not in the file")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is no whole matching: {type(error).__name__} {error}") from error
    return classes, matchings


def load_matching(path: Path, scored: Comparison) -> dict[str, np.ndarray]:
    """Policy to class int64 (L,) of each cluster of ``scored``, -1 for none.

    Raises:
        UsageError: there is no such file.
        DataError: it is no saved matching, or one of other clusters or classes.
    """
    saved, matchings = read_matching(path)
    classes, clusters = scored.taxonomy.keys, scored.cluster_ids.tolist()
    if unknown := sorted(set(saved) - set(classes)):
        raise DataError(
            f"{path} was fitted to other classes: there is no {unknown[0][0]!r} here (see --gt-things, --gt-stuff)"
        )
    for of_cluster in matchings.values():
        if of_cluster.keys() != set(clusters):
            raise DataError(f"{path} holds {len(of_cluster)} clusters that are not the {len(clusters)} here")
    place = {None: VOID} | {index: classes.index(key) for index, key in enumerate(saved)}
    return {
        policy: np.array([place[of_cluster[cluster]] for cluster in clusters], np.int64)
        for policy, of_cluster in matchings.items()
    }


def directory_name(dataset: str) -> str:
    """A folder name for a dataset: its own if it is a plain name; for a path, the last part and a short digest."""
    path = dataset.rpartition("://")[2]
    if not any(separator in path for separator in "/\\") and not Path(path).is_dir():
        return path
    absolute = Path(path).expanduser().absolute().as_posix()
    return f"{Path(absolute).name}-{hashlib.sha256(absolute.encode()).hexdigest()[:8]}"
