"""What an evaluation gave, as text for people and as JSON; every figure beside its policy, and beside chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from u2seg.evaluation.detection import AREAS, PER_POLICY
from u2seg.evaluation.fitting import Fit, PolicyScores, Scoring, score_policy

SEMANTIC = {"pixel_accuracy": "PixAcc", "mIoU": "mIoU"}
TABLES = (
    {name: name for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")},
    {
        **SEMANTIC,
        **{f"{name}_stuff": f"{head}_st" for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{head} {kind}" for kind in ("sem_seg", "released") for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{name} {kind}" for kind in ("mask", "box") for name in PER_POLICY},
    },
)
"""Figures to the heads of their columns, table by table; those that nobody has are left out."""
COLUMNS = {**TABLES[0], **TABLES[1]}
WARNED = ("PQ", "PQ_th", "PQ_st", "pixel_accuracy", "mIoU")
"""Figures that a warning names when chance comes close."""
MASK_FIGURES = ("AR@1", "AR@10", "AR@100", "AP", "AP50", "AP75", "recall50", *(f"AR@100{area}" for area in AREAS[1:]))


@dataclass(frozen=True)
class Report:
    """What came out, as its JSON has it; all figures percent."""

    scored: str  # What was scored
    gt: str  # Against what
    photos: dict[str, Any]  # ``scored``, their number; file names that one side lacks: ``only_gt``, ``only_pseudo``
    clusters: dict[str, int]  # Number of ``things`` and of ``stuff``
    classes: dict[str, Any]  # The same of human classes, with ``things_level`` and ``stuff_level``
    class_agnostic: dict[str, Any]
    """What needs no matching: `class_agnostic_scores`, where there are masks, and ``one_class``, PQ of all things."""
    best_class_each: dict[str, float]
    """Figures of these segments with the best class given to each: what matching and clustering could reach."""
    control_seeds: int  # Runs of the chance control
    policies: tuple[PolicyScores, ...]

    @classmethod
    def of(
        cls,
        name: str,
        gt: str,
        fits: Sequence[Fit],
        scoring: Scoring,
        masks: Mapping[str, Any],
        only_gt: Sequence[str] = (),
        only_pseudo: Sequence[str] = (),
    ) -> Report:
        """Score one set under every policy and each of its ``fits``."""
        scored = fits[0].scored
        taxonomy, things = scored.taxonomy, int(scored.taxonomy.isthing.sum())
        return cls(
            scored=name,
            gt=gt,
            photos={"scored": scored.table.num_images, "only_gt": only_gt, "only_pseudo": only_pseudo},
            clusters={"things": scored.num_things, "stuff": len(scored.cluster_ids) - scored.num_things},
            classes={
                **{"things": things, "things_level": taxonomy.things},
                **{"stuff": len(taxonomy) - things, "stuff_level": taxonomy.stuff},
            },
            class_agnostic={**masks, "one_class": scored.one_class_things()},
            best_class_each=scored.figures(scored.best_classes()),
            control_seeds=scoring.seeds,
            policies=tuple(
                score_policy(fit, policy, range(scoring.seeds)) for fit in fits for policy in scoring.policies
            ),
        )


def as_json(value: Any) -> Any:
    """A report, or a part of one, in plain types, with None for figures that are not defined."""
    if isinstance(value, Report | PolicyScores):
        return as_json(vars(value))
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(report: Report, per_class: int = 0) -> str:
    """The report as text, with the ``per_class`` best and worst classes of each policy."""
    parts = [_heading(report), _without_classes(report)]
    for fitted_on in dict.fromkeys(scores.fitted_on for scores in report.policies):
        parts.append(_tables(report, [scores for scores in report.policies if scores.fitted_on == fitted_on]))
    parts += ["\n".join(map(_warning, close))] if (close := [s for s in report.policies if _close(s)]) else []
    return "\n\n".join(parts + [_classes(scores, per_class) for scores in report.policies if per_class])


def _grid(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    """A table of texts and percentages; nan is a dash."""
    from tabulate import tabulate

    cells = [[None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows]
    return tabulate(cells, heads, tablefmt="plain", floatfmt=".2f", missingval="-", numalign="right")


def _heading(report: Report) -> str:
    clusters, classes, photos = report.clusters, report.classes, report.photos
    lines = [
        f"{report.scored}: {photos['scored']} photos scored against {report.gt}",
        f"{clusters['things']} thing clusters to {classes['things']} classes ({classes['things_level']}), "
        f"{clusters['stuff']} stuff clusters to {classes['stuff']} classes ({classes['stuff_level']}); all in percent",
    ]
    for kind, names in (("human", photos["only_gt"]), ("pseudo", photos["only_pseudo"])):
        if names:
            lines.append(f"left out: {len(names)} photos with {kind} labels only, such as {names[0]}")
    return "\n".join(lines)


def _without_classes(report: Report) -> str:
    masks, lines = report.class_agnostic, []
    if "mask" in masks:
        heads = ["", *(name.replace("_", " ") for name in MASK_FIGURES)]
        rows = [[title, *map(masks[kind].get, MASK_FIGURES)] for title, kind in (("masks", "mask"), ("boxes", "box"))]
        lines = [
            f"Things without classes (no matching), from {masks['source']}: {masks['masks_per_image']:.2f} masks a "
            f"photo, {masks['things_per_image']:.2f} human things",
            _grid(rows, heads),
        ]
    one_class = ", ".join(f"{name} {_number(value)}" for name, value in masks["one_class"].items())
    return "\n".join([*lines, f"all things as one class (no matching): {one_class}"])


def _tables(report: Report, rows: Sequence[PolicyScores]) -> str:
    title = f"Matched on {rows[0].fitted_on}"
    if report.control_seeds:
        title += f"; by chance: cluster ids shuffled, mean and deviation of {report.control_seeds}"
    grids = []
    for table in TABLES:
        names = [name for name in table if any(name in scores.figures for scores in rows)]
        lines: list[tuple[str, Mapping[str, float]]] = []
        for scores in rows:
            lines.append((scores.policy, scores.figures))
            if scores.control_mean:
                lines += [("- by chance", scores.control_mean), ("- deviation", scores.control_sd)]
        lines.append(("best class each", report.best_class_each))
        cells = [[head, *(figures.get(name, math.nan) for name in names)] for head, figures in lines]
        grids.append(_grid(cells, ["policy", *(table[name] for name in names)]))
    return "\n".join([title, *grids])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _close(scores: PolicyScores) -> list[str]:
    return [name for name in WARNED if name in scores.close_to_chance]


def _warning(scores: PolicyScores) -> str:
    figures = ", ".join(
        f"{COLUMNS[name]} {_number(scores.figures[name])} (chance {_number(scores.control_mean[name])})"
        for name in _close(scores)
    )
    return f"warning: {scores.policy}, matched on {scores.fitted_on}, is close to chance: {figures}"


def _classes(scores: PolicyScores, count: int) -> str:
    ordered = sorted(scores.per_class, key=lambda entry: (-float(entry["PQ"]), -float(entry["IoU"])))
    chosen = ordered if len(ordered) <= 2 * count else [*ordered[:count], *ordered[-count:]]
    names = ("PQ", "SQ", "RQ", "IoU", "tp", "fp", "fn")
    rows = [
        [entry["name"], "thing" if entry["isthing"] else "stuff", *(entry[name] for name in names)] for entry in chosen
    ]
    title = f"{scores.policy}, matched on {scores.fitted_on}: best and worst of {len(ordered)} classes"
    return f"{title}\n{_grid(rows, ['class', 'kind', 'PQ', 'SQ', 'RQ', 'IoU', 'matched', 'false', 'missed'])}"
