"""Figures with what chance makes of the same segments beside them.

The chance control deals the cluster ids anew among the segments, matches and scores them the same way; a matching with
many clusters and few photos finds good classes for random ids, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from u2seg.evaluation.fitting import Fit
from u2seg.evaluation.matching import U2SEG_PAPER

CLOSE_SHARE = 2 / 3
"""A figure is called close to chance where chance reaches this share of it."""


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
    """mean over the seeds, percent; empty if no control was asked for"""
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
    """Match by ``policy``, score, and do the same with dealt ids once for each of ``seeds``."""
    classes = fit.classes(policy)
    chance = [fit.scored.figures(fit.classes(policy, seed), policy) for seed in seeds]
    columns = {name: np.array([figures[name] for figures in chance]) for name in chance[0]} if chance else {}
    return PolicyScores(
        policy=policy,
        fitted_on=fit.label,
        key=f"{policy}{fit.suffix}",
        figures=fit.scored.figures(classes, policy, fit.of_cluster(policy) if policy == U2SEG_PAPER else None),
        control={name: float(values.mean()) for name, values in columns.items()},
        control_sd={name: float(values.std()) for name, values in columns.items()},
        per_class=fit.scored.per_class(classes[: len(fit.scored.overlaps.pred)], policy),
    )
