"""What an evaluation gave: a dict for JSON, a text and a picture; every figure beside its policy, and beside chance.

Shapes: ``L`` clusters; ``C`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.detection import KINDS
from u2seg.evaluation.fitting import Fit, score_policy
from u2seg.evaluation.tables import VOID
from u2seg.files import in_words, replacing

WARNED = ("PQ", "PQ_th", "PQ_st", "pixel_accuracy", "mIoU")
"""Figures that a warning names when chance comes close."""
MOST_NAMES = 100
"""Where the picture has more rows than this, they get no names."""


def make_report(
    name: str, gt: str, fits: Sequence[Fit], masks: Mapping[str, Any], **left_out: Sequence[str]
) -> dict[str, Any]:
    """Score the set ``name`` against ``gt`` under every policy and each of its ``fits``; all figures percent.

    ``masks`` are of `class_agnostic_scores`, empty where there are none; ``left_out`` are file names of photos that one
    side lacks, ``only_gt`` and ``only_pseudo``.
    """
    scored = fits[0].scored
    taxonomy, scoring, things = scored.taxonomy, scored.scoring, int(scored.taxonomy.isthing.sum())
    return {
        "scored": name,
        "gt": gt,
        "photos": {"scored": scored.table.num_images, "only_gt": [], "only_pseudo": [], **left_out},
        "clusters": {"things": scored.num_things, "stuff": len(scored.cluster_ids) - scored.num_things},
        "classes": {
            **{"things": things, "things_level": taxonomy.things},
            **{"stuff": len(taxonomy) - things, "stuff_level": taxonomy.stuff},
        },
        "class_agnostic": {**masks, "one_class": scored.one_class_things()},
        # These segments with the best class given to each: what matching and clustering could reach.
        "best_class_each": scored.figures(scored.best_classes()),
        "control_seeds": scoring.seeds,
        "policies": [score_policy(fit, policy, scoring.seeds) for fit in fits for policy in scoring.policies],
    }


def as_json(value: Any) -> Any:
    """A report, or a part of one, with None for figures that are not defined."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(report: Mapping[str, Any], per_class: int = 0) -> str:
    """The report as text, with the ``per_class`` best and worst classes of each policy."""
    policies = report["policies"]
    parts = [_heading(report), _without_classes(report["class_agnostic"])]
    for fitted_on in dict.fromkeys(scores["fitted_on"] for scores in policies):
        parts.append(_tables(report, [scores for scores in policies if scores["fitted_on"] == fitted_on]))
    parts.append("\n".join(filter(None, map(_warning, policies))))
    for scores in policies if per_class else ():
        ordered = sorted(scores["per_class"], key=lambda entry: (-entry["PQ"], -entry["IoU"]))
        chosen = ordered if len(ordered) <= 2 * per_class else [*ordered[:per_class], *ordered[-per_class:]]
        title = f"{scores['policy']}, matched on {scores['fitted_on']}: best and worst of {len(ordered)} classes"
        parts.append(f"{title}\n{_grid(chosen)}")
    return "\n\n".join(filter(None, parts))


def _grid(rows: list[dict[str, Any]]) -> str:
    """A table of texts and percentages, a column for each key that a row has; nan is a dash."""
    return tabulate(as_json(rows), "keys", tablefmt="plain", floatfmt=".2f", missingval="-", numalign="right")


def _heading(report: Mapping[str, Any]) -> str:
    clusters, classes, photos = report["clusters"], report["classes"], report["photos"]
    lines = [
        f"{report['scored']}: {photos['scored']} photos scored against {report['gt']}",
        f"{clusters['things']} thing clusters to {classes['things']} classes ({classes['things_level']}), "
        f"{clusters['stuff']} stuff clusters to {classes['stuff']} classes ({classes['stuff_level']}); all in percent",
    ]
    for kind, names in (("human", photos["only_gt"]), ("pseudo", photos["only_pseudo"])):
        if names:
            lines.append(f"left out: {len(names)} photos with {kind} labels only, such as {names[0]}")
    return "\n".join(lines)


def _without_classes(masks: Mapping[str, Any]) -> str:
    lines = []
    if "mask" in masks:
        lines = [
            f"Things without classes (no matching), from {masks['source']}: {masks['masks_per_image']:.2f} masks a "
            f"photo, {masks['things_per_image']:.2f} human things",
            _grid([{"": kind, **masks[kind]} for kind in KINDS]),
        ]
    one_class = ", ".join(f"{name} {_number(value)}" for name, value in masks["one_class"].items())
    return "\n".join([*lines, f"all things as one class (no matching): {one_class}"])


def _tables(report: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> str:
    """Panoptic figures, then the others, of policies that were matched on the same labels."""
    title = f"Matched on {policies[0]['fitted_on']}"
    if report["control_seeds"]:
        title += f"; by chance: cluster ids shuffled, mean and deviation of {report['control_seeds']}"
    lines: list[tuple[str, Mapping[str, float]]] = []
    for scores in policies:
        lines.append((scores["policy"], scores["figures"]))
        if scores["control_mean"]:
            lines += [("- by chance", scores["control_mean"]), ("- deviation", scores["control_sd"])]
    lines.append(("best class each", report["best_class_each"]))
    grids = []
    for panoptic in (True, False):
        chosen = [(name, {k: v for k, v in figures.items() if (k[1] == "Q") == panoptic}) for name, figures in lines]
        grids.append(_grid([{"policy": name, **figures} for name, figures in chosen]))
    return "\n".join([title, *grids])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _warning(scores: Mapping[str, Any]) -> str:
    figures = [
        f"{name} {_number(scores['figures'][name])} (chance {_number(scores['control_mean'][name])})"
        for name in WARNED
        if name in scores["close_to_chance"]
    ]
    policy = f"{scores['policy']}, matched on {scores['fitted_on']}"
    return f"warning: {policy}, is close to chance: {', '.join(figures)}" if figures else ""


def draw_clusters(comparison: Comparison, policy: str, path: Path) -> None:
    """Write a PNG of the counts behind ``policy``, each cluster's as shares of its own sum.

    Its matching gives the order of the rows, and a mark in each.
    """
    from matplotlib.figure import Figure

    counts = comparison.counts(policy, comparison.cluster)
    of_cluster = comparison.matched(policy, comparison.cluster)
    figure = Figure(figsize=(16, 10), layout="constrained")
    figure.suptitle(f"Clusters by class: share of what {policy} counts; rings mark the class that it gives")
    for axis, kind, title in zip(figure.subplots(1, 2), (True, False), ("thing", "stuff"), strict=True):
        rows = np.flatnonzero((comparison.cluster_isthing == kind) & (counts.sum(axis=1) > 0))
        columns = np.flatnonzero((comparison.taxonomy.isthing == kind) & (counts.sum(axis=0) > 0))
        rows = rows[np.lexsort((-counts[rows].max(axis=1, initial=0), of_cluster[rows]))]
        unseen = int((comparison.cluster_isthing == kind).sum()) - len(rows)
        axis.set_title(f"{len(rows)} {title} clusters" + (f" ({unseen} overlap nothing)" if unseen else ""))
        if not len(rows):
            axis.set_axis_off()
            continue
        shares = counts[np.ix_(rows, columns)] / counts[rows].sum(axis=1, keepdims=True)
        axis.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        matched = np.flatnonzero(of_cluster[rows] != VOID)
        place = np.searchsorted(columns, of_cluster[rows[matched]])
        axis.scatter(place, matched, s=10, facecolors="none", edgecolors="tab:red", linewidths=0.6)
        axis.set_xticks(range(len(columns)), [comparison.taxonomy.names[c] for c in columns], rotation=90, fontsize=6)
        named = rows[: len(rows) if len(rows) <= MOST_NAMES else 0]
        axis.set_yticks(range(len(named)), comparison.cluster_ids[named].tolist(), fontsize=6)
        axis.set_ylabel("category_id of the cluster")
    with in_words(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
