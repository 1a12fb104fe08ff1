"""On which labels a matching is fitted, its figures beside those of chance, and how it is saved.

The chance control shuffles the cluster ids among the segments, matches and scores them the same way; a matching with
many clusters and few photos finds good classes for random ids, too.

Shapes: ``L`` clusters; ``F`` folds, 1 without; ``U`` members of clusters in the scored set (see `comparison`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, UsageError, lookup
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.matching import Scoring
from u2seg.evaluation.tables import VOID
from u2seg.fields import read_json
from u2seg.files import in_words, write_json

FORMAT = "u2seg matching 1"
MATCHING_FILE = "matching.json"
CLOSE_SHARE = 2 / 3
"""A figure is called close to chance where chance reaches this share of it."""


@dataclass(frozen=True)
class Fit:
    """A way to give classes to the members of the scored set.

    With nothing but ``scored``, the matching is fitted on the photos that it scores, which is usual and flatters.
    """

    scored: Comparison
    label: str = "the photos that are scored"  # What a table says the matching was fitted on
    suffix: str = ""  # What the short names of its figures end in
    fitted: Comparison | None = None  # Fit on this set instead
    saved: Mapping[str, np.ndarray] | None = None  # Fit nothing: policy to class int64 (L,) of each cluster
    folds: int = 0  # 2 or more: fit on the other folds of the scored set, photo by photo, and score all folds together

    def __post_init__(self) -> None:
        images = self.scored.table.num_images
        if self.folds and not 2 <= self.folds <= images:
            raise UsageError(
                f"--folds (TEST.MATCHING.FOLDS) takes 2 to the number of photos ({images}), not {self.folds}"
            )
        fitted, scored = (each.cluster_ids.tolist() for each in (self.fitted or self.scored, self.scored))
        if fitted != scored or (self.fitted and self.fitted.num_things != self.scored.num_things):
            raise DataError(
                f"the {len(fitted)} clusters of the set to fit on are not the {len(scored)} of the one to score: a "
                "matching can only be carried over between labels of the same clusters (see U2SEG.CLUSTERS.REUSE)"
            )

    @cached_property
    def fold(self) -> np.ndarray:
        """int64 (U,) fold in [0, F) of each member, that of its photo; 0 without folds."""
        fold_of_image = np.random.default_rng(0).permutation(self.scored.table.num_images) % max(self.folds, 1)
        return fold_of_image[self.scored.members["image"]]

    def matchings(self, policy: str, seed: int | None = None) -> np.ndarray:
        """Class int64 (F, L) of each cluster in each fold, -1 for void; with a ``seed``, of the chance control.

        Raises:
            UsageError: the saved matchings are by other policies.
        """
        if self.saved is not None:
            return lookup(f"matching policy in {self.label}", policy, self.saved)[None]
        fitted, fold = self.fitted or self.scored, self.fold
        cluster = fitted.shuffled(seed)
        if not self.folds:
            return fitted.matched(policy, cluster)[None]
        return np.stack([fitted.matched(policy, cluster, fold != held_out) for held_out in range(self.folds)])

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        """Class int64 (U,) of each member, -1 for void; with a ``seed``, of the chance control."""
        return self.matchings(policy, seed)[self.fold, self.scored.shuffled(seed)]


def ways_to_fit(scoring: Scoring, scored: Comparison, fitted: Comparison | None = None, name: str = "") -> list[Fit]:
    """The ways to fit that are asked for, the first of them on another set, ``fitted``, called ``name``, if given."""
    if scoring.matching:
        return [Fit(scored, str(scoring.matching), "_transferred", saved=load_matching(scoring.matching, scored))]
    first = Fit(scored, name, "_transferred", fitted) if fitted else Fit(scored)
    label = f"other photos of this set ({scoring.folds} folds)"
    return [first, Fit(scored, label, "_folds", folds=scoring.folds)] if scoring.folds else [first]


def is_close(figure: float, control: float, deviation: float) -> bool:
    """Whether ``figure`` says little more than its chance control does, all percent."""
    if math.isnan(figure) or math.isnan(control) or figure == 0:
        return False
    return control >= CLOSE_SHARE * figure or figure <= control + 2 * deviation


def score_policy(fit: Fit, policy: str, seeds: int) -> dict[str, Any]:
    """Match by ``policy``, score, and do the same with shuffled ids for ``seeds`` seeds from 0.

    The control has no AP: that costs more than all else together, and says no more about chance than PQ does.

    Returns:
        ``policy``; ``fitted_on``; ``key``, the short name of policy and fit; ``figures`` by name, percent, nan where
        there is nothing to score; ``control_mean`` and ``control_sd`` over the seeds, empty without any;
        ``close_to_chance``, names of the figures that chance nearly reaches; ``per_class``.
    """
    scored, classes = fit.scored, fit.classes(policy)
    figures = scored.figures(classes, policy, None if fit.folds else fit.matchings(policy)[0])
    chance = [scored.figures(fit.classes(policy, seed), policy) for seed in range(seeds)]
    columns = {name: np.array([control[name] for control in chance]) for name in (chance[0] if chance else ())}
    mean, deviation = ({name: float(f(values)) for name, values in columns.items()} for f in (np.mean, np.std))
    return {
        "policy": policy,
        "fitted_on": fit.label,
        "key": f"{policy}{fit.suffix}",
        "figures": figures | scored.detection_figures(classes),
        "control_mean": mean,
        "control_sd": deviation,
        # SQ says how good masks are, so random classes don't lower it.
        "close_to_chance": [
            name for name in mean if name[:2] != "SQ" and is_close(figures[name], mean[name], deviation[name])
        ],
        "per_class": scored.per_class(classes[: len(scored.table.pred)], policy),
    }


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
