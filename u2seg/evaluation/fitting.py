"""On which labels a matching is fitted, and its figures beside those of chance.

The chance control shuffles the cluster ids among the segments, matches and scores them the same way; a matching with
many clusters and few photos finds good classes for random ids, too.

Shapes: ``L`` clusters; ``C`` classes; ``U`` members of clusters in the scored set (see `comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.matching import U2SEG_PAPER
from u2seg.evaluation.tables import VOID

CLOSE_SHARE = 2 / 3
"""A figure is called close to chance where chance reaches this share of it."""


def _clusters(comparison: Comparison, seed: int | None) -> np.ndarray:
    return comparison.cluster if seed is None else comparison.shuffled(seed)


@dataclass(frozen=True)
class SetFit:
    """Fitted on a whole set: the one that it scores, which is usual and flatters, or another with the same clusters."""

    scored: Comparison
    fitted: Comparison
    label: str = "the photos that are scored"
    """What a table says the matching was fitted on."""
    suffix: str = ""
    """What the short names of its figures end in."""

    def __post_init__(self) -> None:
        clusters = [
            f"{len(comparison.things)} thing and {len(comparison.stuff)} stuff clusters"
            for comparison in (self.fitted, self.scored)
        ]
        if (self.scored.things, self.scored.stuff) != (self.fitted.things, self.fitted.stuff):
            raise DataError(
                f"the set to fit on has {clusters[0]}, the one to score {clusters[1]}: a matching can only be "
                "carried over between labels of the same clusters (see U2SEG.CLUSTERS.REUSE)"
            )

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        """Class int64 (U,) of each member, -1 for void; with a ``seed``, of the chance control."""
        of_cluster = self.fitted.matched(policy, _clusters(self.fitted, seed))
        return of_cluster[_clusters(self.scored, seed)]

    def of_cluster(self, policy: str) -> np.ndarray | None:
        """Class int64 (L,) of each cluster, -1 for void; None if it is not the same in all photos."""
        return self.fitted.matched(policy, self.fitted.cluster)


@dataclass(frozen=True)
class FoldFit:
    """Fitted on the other folds, photo by photo, and all folds scored together."""

    scored: Comparison
    folds: int
    suffix: ClassVar[str] = "_folds"

    def __post_init__(self) -> None:
        images = self.scored.table.num_images
        if not 2 <= self.folds <= images:
            raise UsageError(
                f"--folds (TEST.MATCHING.FOLDS) takes 2 to the number of photos ({images}), not {self.folds}"
            )

    @property
    def label(self) -> str:
        """What a table says the matching was fitted on."""
        return f"other photos of this set ({self.folds} folds)"

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        """As `SetFit.classes`."""
        cluster = _clusters(self.scored, seed)
        fold_of_image = np.random.default_rng(0).permutation(self.scored.table.num_images) % self.folds
        fold = fold_of_image[self.scored.members["image"]]
        classes = np.full(len(cluster), VOID, np.int64)
        for held_out in range(self.folds):
            scored = fold == held_out
            classes[scored] = self.scored.matched(policy, cluster, ~scored)[cluster[scored]]
        return classes

    def of_cluster(self, policy: str) -> np.ndarray | None:
        """None: each fold has its own."""
        return None


@dataclass(frozen=True)
class SavedFit:
    """A matching from a file. Its chance control shuffles the ids of the scored set and keeps the matching."""

    scored: Comparison
    policies: Mapping[str, np.ndarray]
    """Policy to int64 (L,), class of each cluster."""
    label: str
    suffix: ClassVar[str] = "_transferred"

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        """As `SetFit.classes`."""
        return self.of_cluster(policy)[_clusters(self.scored, seed)]

    def of_cluster(self, policy: str) -> np.ndarray:
        """As `SetFit.of_cluster`.

        Raises:
            UsageError: the file has no matching by this policy.
        """
        if policy not in self.policies:
            raise UsageError(f"{self.label} holds no matching of policy {policy}; it has {', '.join(self.policies)}")
        return self.policies[policy]


Fit = SetFit | FoldFit | SavedFit


@dataclass(frozen=True)
class PolicyScores:
    """One policy's figures."""

    policy: str
    fitted_on: str
    key: str
    """Short name of policy and fit."""
    figures: dict[str, float]
    """percent, nan where there is nothing to score"""
    control: dict[str, float]
    """mean over the seeds, percent, without AP; empty if no control was asked for"""
    control_sd: dict[str, float]
    """standard deviation over the seeds, percent"""
    per_class: list[dict[str, float | int | str | bool]]

    def close_to_chance(self) -> list[str]:
        """Names of figures that chance nearly reaches; SQ says how good masks are, so random classes don't lower it."""
        return [
            name
            for name, mean in self.control.items()
            if not name.startswith("SQ") and is_close(self.figures[name], mean, self.control_sd[name])
        ]


def is_close(figure: float, control: float, deviation: float) -> bool:
    """Whether ``figure`` says little more than its chance control does, all percent."""
    if math.isnan(figure) or math.isnan(control) or figure == 0:
        return False
    return control >= CLOSE_SHARE * figure or figure <= control + 2 * deviation


def score_policy(fit: Fit, policy: str, seeds: Sequence[int]) -> PolicyScores:
    """Match by ``policy``, score, and do the same with shuffled ids once for each of ``seeds``.

    The control has no AP: that costs more than all else together, and says no more about chance than PQ does.
    """
    scored, classes = fit.scored, fit.classes(policy)
    chance = [scored.figures(fit.classes(policy, seed), policy) for seed in seeds]
    columns = {name: np.array([figures[name] for figures in chance]) for name in chance[0]} if chance else {}
    of_cluster = fit.of_cluster(policy) if policy == U2SEG_PAPER else None
    return PolicyScores(
        policy=policy,
        fitted_on=fit.label,
        key=f"{policy}{fit.suffix}",
        figures=scored.figures(classes, policy, of_cluster) | scored.detection_figures(classes),
        control={name: float(values.mean()) for name, values in columns.items()},
        control_sd={name: float(values.std()) for name, values in columns.items()},
        per_class=scored.per_class(classes[: len(scored.table.pred)], policy),
    )
