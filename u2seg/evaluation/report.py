"""What an evaluation gave, as text for people and as JSON; every figure beside its policy, and beside chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from u2seg.evaluation.detection import AREAS, MaskScores
from u2seg.evaluation.fitting import Fit, PolicyScores, score_policy
from u2seg.evaluation.taxonomy import Taxonomy

SEMANTIC = {"pixel_accuracy": "PixAcc", "mIoU": "mIoU"}
TABLES = (
    {name: name for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")},
    {
        **SEMANTIC,
        **{f"{name}_stuff": f"{head}_st" for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{head} {kind}" for kind in ("sem_seg", "released") for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{name} {kind}" for kind in ("mask", "box") for name in ("AP", "AP50", "AR@100")},
    },
)
"""Figures to the heads of their columns, table by table; those that nobody has are left out."""
COLUMNS = {**TABLES[0], **TABLES[1]}
WARNED = ("PQ", "PQ_th", "PQ_st", "pixel_accuracy", "mIoU")
"""Figures that a warning names when chance comes close."""
MASK_FIGURES = ("AR@1", "AR@10", "AR@100", "AP", "AP50", "AP75", "recall50", *(f"AR@100{area}" for area in AREAS[1:]))


@dataclass(frozen=True)
class Report:
    """What came out; all figures percent."""

    name: str
    """What was scored."""
    gt: str
    """Against what."""
    photos: int
    only_gt: tuple[str, ...]
    """Photos with human labels only."""
    only_pseudo: tuple[str, ...]
    """Photos with the other labels only."""
    taxonomy: Taxonomy
    clusters: tuple[int, int]
    """Number of thing and of stuff clusters."""
    seeds: int
    """Runs of the chance control."""
    masks: MaskScores | None
    """None where there are no masks beside the panoptic segments."""
    one_class: dict[str, float]
    perfect: dict[str, float]
    """Figures of these segments with the best class given to each: what matching and clustering could reach."""
    scores: tuple[PolicyScores, ...]

    @classmethod
    def of(
        cls,
        fits: Sequence[Fit],
        policies: Sequence[str],
        seeds: int,
        *,
        masks: MaskScores | None,
        name: str,
        gt: str,
        only_gt: tuple[str, ...] = (),
        only_pseudo: tuple[str, ...] = (),
    ) -> Report:
        """Score one set under every policy and each of its ``fits``."""
        scored = fits[0].scored
        return cls(
            name=name,
            gt=gt,
            photos=scored.table.num_images,
            only_gt=only_gt,
            only_pseudo=only_pseudo,
            taxonomy=scored.taxonomy,
            clusters=(len(scored.things), len(scored.stuff)),
            seeds=seeds,
            masks=masks,
            one_class=scored.one_class_things(),
            perfect=scored.figures(scored.best_classes()),
            scores=tuple(score_policy(fit, policy, range(seeds)) for fit in fits for policy in policies),
        )


def render(report: Report, per_class: int = 0) -> str:
    """The report as text, with the ``per_class`` best and worst classes of each policy."""
    parts = [_heading(report), _masks(report)]
    for fitted_on in dict.fromkeys(scores.fitted_on for scores in report.scores):
        parts.append(_tables(report, [scores for scores in report.scores if scores.fitted_on == fitted_on]))
    parts += filter(None, ["\n".join(line for scores in report.scores for line in _warnings(scores))])
    return "\n\n".join(parts + [_classes(scores, per_class) for scores in report.scores if per_class])


def _grid(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    """A table of texts and percentages; nan is a dash."""
    from tabulate import tabulate

    cells = [[None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows]
    return tabulate(cells, heads, tablefmt="plain", floatfmt=".2f", missingval="-", numalign="right")


def _heading(report: Report) -> str:
    taxonomy = report.taxonomy
    things = int(taxonomy.isthing.sum())
    lines = [
        f"{report.name}: {report.photos} photos scored against {report.gt}",
        f"{report.clusters[0]} thing clusters to {things} classes ({taxonomy.things}), "
        f"{report.clusters[1]} stuff clusters to {len(taxonomy) - things} classes ({taxonomy.stuff}); all in percent",
    ]
    for kind, names in (("human", report.only_gt), ("pseudo", report.only_pseudo)):
        if names:
            lines.append(f"left out: {len(names)} photos with {kind} labels only, such as {names[0]}")
    return "\n".join(lines)


def _masks(report: Report) -> str:
    one_class = ", ".join(f"{name} {_number(value)}" for name, value in report.one_class.items())
    lines = [f"all things as one class (no matching): {one_class}"]
    if report.masks:
        masks = report.masks
        rows = [
            [kind, *(figures[name] for name in MASK_FIGURES)]
            for kind, figures in (("masks", masks.mask), ("boxes", masks.box))
        ]
        title = (
            f"Things without classes (no matching), from {masks.source}: {masks.masks_per_image:.2f} masks a photo, "
            f"{masks.things_per_image:.2f} human things"
        )
        lines = [title, _grid(rows, ["", *(name.replace("_", " ") for name in MASK_FIGURES)]), *lines]
    return "\n".join(lines)


def _tables(report: Report, rows: Sequence[PolicyScores]) -> str:
    title = f"Matched on {rows[0].fitted_on}"
    if report.seeds:
        title += f"; by chance: cluster ids shuffled, mean and deviation of {report.seeds}"
    grids = []
    for table in TABLES:
        names = [name for name in table if any(name in scores.figures for scores in rows)]
        lines: list[tuple[str, Mapping[str, float]]] = []
        for scores in rows:
            lines.append((scores.policy, scores.figures))
            if scores.control:
                lines += [("- by chance", scores.control), ("- deviation", scores.control_sd)]
        lines.append(("best class each", report.perfect))
        cells = [[head, *(figures.get(name, math.nan) for name in names)] for head, figures in lines]
        grids.append(_grid(cells, ["policy", *(table[name] for name in names)]))
    return "\n".join([title, *grids])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _warnings(scores: PolicyScores) -> list[str]:
    close = [name for name in WARNED if name in scores.close_to_chance()]
    figures = ", ".join(
        f"{COLUMNS[name]} {_number(scores.figures[name])} (chance {_number(scores.control[name])})" for name in close
    )
    return [f"warning: {scores.policy}, matched on {scores.fitted_on}, is close to chance: {figures}"] if close else []


def _classes(scores: PolicyScores, count: int) -> str:
    ordered = sorted(scores.per_class, key=lambda entry: (-float(entry["PQ"]), -float(entry["IoU"])))
    chosen = ordered if len(ordered) <= 2 * count else [*ordered[:count], *ordered[-count:]]
    names = ("PQ", "SQ", "RQ", "IoU", "tp", "fp", "fn")
    rows = [
        [entry["name"], "thing" if entry["isthing"] else "stuff", *(entry[name] for name in names)] for entry in chosen
    ]
    title = f"{scores.policy}, matched on {scores.fitted_on}: best and worst of {len(ordered)} classes"
    return f"{title}\n{_grid(rows, ['class', 'kind', 'PQ', 'SQ', 'RQ', 'IoU', 'matched', 'false', 'missed'])}"


def as_json(report: Report) -> dict[str, Any]:
    """Everything the report holds, in plain types; figures in percent, None for those that are not defined."""
    taxonomy, masks = report.taxonomy, report.masks
    content: dict[str, Any] = {
        "scored": report.name,
        "gt": report.gt,
        "photos": {"scored": report.photos, "only_gt": report.only_gt, "only_pseudo": report.only_pseudo},
        "clusters": {"things": report.clusters[0], "stuff": report.clusters[1]},
        "classes": {
            "things": int(taxonomy.isthing.sum()),
            "things_level": taxonomy.things,
            "stuff": int((~taxonomy.isthing).sum()),
            "stuff_level": taxonomy.stuff,
        },
        "class_agnostic": {**(vars(masks) if masks else {}), "one_class": report.one_class},
        "best_class_each": report.perfect,
        "control_seeds": report.seeds,
        "policies": [
            {
                "policy": scores.policy,
                "fitted_on": scores.fitted_on,
                "figures": scores.figures,
                "control_mean": scores.control,
                "control_sd": scores.control_sd,
                "close_to_chance": scores.close_to_chance(),
                "per_class": scores.per_class,
            }
            for scores in report.scores
        ],
    }
    return _without_nan(content)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
