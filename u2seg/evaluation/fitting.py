"""On which labels a matching is learnt: those that are scored, other folds of them, another set, or a saved one.

Shapes: ``L`` clusters; ``C`` classes; ``U`` predicted segments and detections of the scored set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.joined import VOID
from u2seg.evaluation.matching import match_kinds


class Fit(Protocol):
    """A way to give classes to the segments of the scored set."""

    suffix: ClassVar[str]
    """What the short names of its figures end in."""

    @property
    def scored(self) -> Comparison:
        """The set to score."""
        ...

    @property
    def label(self) -> str:
        """What a table says the matching was fitted on."""
        ...

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        """Class int64 (U,), -1 for void, of each predicted segment and detection.

        With a ``seed``, the chance control: cluster ids are dealt anew among the segments (on the set that is fitted
        on, too) and matched the same way.
        """
        ...

    def of_cluster(self, policy: str) -> np.ndarray | None:
        """Class int64 (L,), -1 for void, of each cluster; None if it is not the same in all photos."""
        ...


def matched(comparison: Comparison, policy: str, cluster: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Class int64 (L,) of each cluster, fitted on the ``chosen`` segments, bool (U,), of ``comparison``."""
    table = comparison.counts(policy, cluster, chosen)
    return match_kinds(table, comparison.cluster_isthing, comparison.taxonomy.isthing, policy)


def _clusters(comparison: Comparison, seed: int | None) -> np.ndarray:
    return comparison.cluster if seed is None else comparison.shuffled(seed)


@dataclass(frozen=True)
class SelfFit:
    """Fitted on the labels that it scores: the usual way, and a flattering one."""

    scored: Comparison
    suffix: ClassVar[str] = ""

    @property
    def label(self) -> str:
        return "the photos that are scored"

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        cluster = _clusters(self.scored, seed)
        return matched(self.scored, policy, cluster)[cluster]

    def of_cluster(self, policy: str) -> np.ndarray | None:
        return matched(self.scored, policy, self.scored.cluster)


@dataclass(frozen=True)
class FoldFit:
    """Fitted on the other folds, photo by photo, and all folds scored together."""

    scored: Comparison
    folds: int
    suffix: ClassVar[str] = "_folds"

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= self.scored.overlaps.num_images:
            raise UsageError(
                f"--folds takes 2 to the number of photos ({self.scored.overlaps.num_images}), not {self.folds}"
            )

    @property
    def label(self) -> str:
        return f"other photos of this set ({self.folds} folds)"

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        cluster = _clusters(self.scored, seed)
        images = self.scored.overlaps.num_images
        fold_of_image = np.random.default_rng(0).permutation(images) % self.folds
        fold = fold_of_image[self.scored.image]
        found = np.full(len(cluster), VOID, np.int64)
        for held_out in range(self.folds):
            own = fold == held_out
            found[own] = matched(self.scored, policy, cluster, ~own)[cluster[own]]
        return found

    def of_cluster(self, policy: str) -> np.ndarray | None:
        return None


@dataclass(frozen=True)
class OtherFit:
    """Fitted on another labelled set with the same clusters."""

    scored: Comparison
    fitted: Comparison
    name: str
    suffix: ClassVar[str] = "_transferred"

    def __post_init__(self) -> None:
        _require_same_clusters(self.scored, self.fitted)

    @property
    def label(self) -> str:
        return self.name

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        of_cluster = matched(self.fitted, policy, _clusters(self.fitted, seed))
        return of_cluster[_clusters(self.scored, seed)]

    def of_cluster(self, policy: str) -> np.ndarray | None:
        return matched(self.fitted, policy, self.fitted.cluster)


def _require_same_clusters(scored: Comparison, fitted: Comparison) -> None:
    """Raise DataError unless both have the same clusters, so that a matching of one means something for the other."""
    same = np.array_equal(scored.cluster_ids, fitted.cluster_ids)
    if not same or not np.array_equal(scored.cluster_isthing, fitted.cluster_isthing):
        raise DataError(
            f"the set to fit on has {_describe(fitted)}, the one to score {_describe(scored)}: a matching can only be "
            "carried over between labels of the same clusters (see U2SEG.CLUSTERS.REUSE)"
        )


def _describe(comparison: Comparison) -> str:
    things = int(comparison.cluster_isthing.sum())
    return f"{things} thing and {len(comparison.cluster_ids) - things} stuff clusters"


@dataclass(frozen=True)
class SavedFit:
    """A matching from a file. Its chance control deals the ids of the scored set anew and keeps the matching."""

    scored: Comparison
    policies: Mapping[str, np.ndarray]
    """Policy to int64 (L,), class of each cluster."""
    name: str
    suffix: ClassVar[str] = "_transferred"

    @property
    def label(self) -> str:
        return self.name

    def classes(self, policy: str, seed: int | None = None) -> np.ndarray:
        return self.of_cluster(policy)[_clusters(self.scored, seed)]

    def of_cluster(self, policy: str) -> np.ndarray:
        if policy not in self.policies:
            raise UsageError(f"{self.name} holds no matching of policy {policy}; it has {', '.join(self.policies)}")
        return self.policies[policy]
