"""What an evaluation gave, as a dict for JSON and as text; every figure beside its policy, and beside chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from u2seg.evaluation.detection import AREAS, BRIEF, KINDS
from u2seg.evaluation.fitting import Fit, Scoring, score_policy

SEMANTIC = {"pixel_accuracy": "PixAcc", "mIoU": "mIoU"}
TABLES = (
    {name: name for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")},
    {
        **SEMANTIC,
        **{f"{name}_stuff": f"{head}_st" for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{head} {kind}" for kind in ("sem_seg", "released") for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{name} {kind}" for kind in ("mask", "box") for name in BRIEF},
    },
)
"""Figures to the heads of their columns, table by table; those that nobody has are left out."""
WARNED = {"PQ": "PQ", "PQ_th": "PQ_th", "PQ_st": "PQ_st", **SEMANTIC}
"""Figures that a warning names when chance comes close, and what it calls them."""
MASK_FIGURES = ("AR@1", "AR@10", "AR@100", "AP", "AP50", "AP75", "recall50", *(f"AR@100{area}" for area in AREAS[1:]))


def make_report(
    name: str, gt: str, fits: Sequence[Fit], scoring: Scoring, masks: Mapping[str, Any], **left_out: Sequence[str]
) -> dict[str, Any]:
    """Score one set under every policy and each of its ``fits``; all figures percent.

    Args:
        name: what is scored.
        gt: against what.
        fits: ways to give classes to the same set.
        scoring: the policies, and the seeds of the chance control.
        masks: of `class_agnostic_scores`, empty where there are no masks.
        left_out: file names of photos that only one side has, ``only_gt`` and ``only_pseudo``.
    """
    scored = fits[0].scored
    taxonomy, things = scored.taxonomy, int(scored.taxonomy.isthing.sum())
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
    parts += [_classes(scores, per_class) for scores in policies if per_class]
    return "\n\n".join(filter(None, parts))


def _grid(rows: list[list[Any]], heads: Sequence[str]) -> str:
    """A table of texts and percentages; nan is a dash."""
    return tabulate(as_json(rows), heads, tablefmt="plain", floatfmt=".2f", missingval="-", numalign="right")


def _heading(report: Mapping[str, Any]) -> str:
    clusters, classes, photos = report["clusters"], report["classes"], report["photos"]
    kinds = ", ".join(
        f"{clusters[kind]} {word} clusters to {classes[kind]} classes ({classes[f'{kind}_level']})"
        for kind, word in (("things", "thing"), ("stuff", "stuff"))
    )
    lines = [f"{report['scored']}: {photos['scored']} photos scored against {report['gt']}", f"{kinds}; all in percent"]
    for kind, names in (("human", photos["only_gt"]), ("pseudo", photos["only_pseudo"])):
        if names:
            lines.append(f"left out: {len(names)} photos with {kind} labels only, such as {names[0]}")
    return "\n".join(lines)


def _without_classes(masks: Mapping[str, Any]) -> str:
    lines = []
    if "mask" in masks:
        heads = ["", *(name.replace("_", " ") for name in MASK_FIGURES)]
        lines = [
            f"Things without classes (no matching), from {masks['source']}: {masks['masks_per_image']:.2f} masks a "
            f"photo, {masks['things_per_image']:.2f} human things",
            _grid([[kind, *map(masks[kind].get, MASK_FIGURES)] for kind in KINDS], heads),
        ]
    one_class = ", ".join(f"{name} {_number(value)}" for name, value in masks["one_class"].items())
    return "\n".join([*lines, f"all things as one class (no matching): {one_class}"])


def _tables(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    title = f"Matched on {rows[0]['fitted_on']}"
    if report["control_seeds"]:
        title += f"; by chance: cluster ids shuffled, mean and deviation of {report['control_seeds']}"
    lines: list[tuple[str, Mapping[str, float]]] = []
    for scores in rows:
        lines.append((scores["policy"], scores["figures"]))
        if scores["control_mean"]:
            lines += [("- by chance", scores["control_mean"]), ("- deviation", scores["control_sd"])]
    lines.append(("best class each", report["best_class_each"]))
    grids = []
    for table in TABLES:
        heads = {name: head for name, head in table.items() if any(name in figures for _, figures in lines)}
        cells = [[title, *(figures.get(name, math.nan) for name in heads)] for title, figures in lines]
        grids.append(_grid(cells, ["policy", *heads.values()]))
    return "\n".join([title, *grids])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _warning(scores: Mapping[str, Any]) -> str:
    figures = [
        f"{head} {_number(scores['figures'][name])} (chance {_number(scores['control_mean'][name])})"
        for name, head in WARNED.items()
        if name in scores["close_to_chance"]
    ]
    policy = f"{scores['policy']}, matched on {scores['fitted_on']}"
    return f"warning: {policy}, is close to chance: {', '.join(figures)}" if figures else ""


def _classes(scores: Mapping[str, Any], count: int) -> str:
    ordered = sorted(scores["per_class"], key=lambda entry: (-entry["PQ"], -entry["IoU"]))
    chosen = ordered if len(ordered) <= 2 * count else [*ordered[:count], *ordered[-count:]]
    names = ("PQ", "SQ", "RQ", "IoU", "tp", "fp", "fn")
    rows = [[entry["name"], "thing" if entry["isthing"] else "stuff", *map(entry.get, names)] for entry in chosen]
    title = f"{scores['policy']}, matched on {scores['fitted_on']}: best and worst of {len(ordered)} classes"
    return f"{title}\n{_grid(rows, ['class', 'kind', 'PQ', 'SQ', 'RQ', 'IoU', 'matched', 'false', 'missed'])}"
