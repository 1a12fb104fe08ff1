"""What an evaluation found, as text for people and as JSON; every figure beside its policy, and beside chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.control import PolicyScores, score_policy
from u2seg.evaluation.fitting import Fit
from u2seg.evaluation.masks import MaskScores
from u2seg.evaluation.taxonomy import Taxonomy

SEMANTIC = {"pixel_accuracy": "PixAcc", "mIoU": "mIoU"}
TABLES = (
    {name: name for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")},
    {
        **{"pixel_accuracy": "PixAcc", "mIoU": "mIoU", "pixel_accuracy_stuff": "PixAcc_st", "mIoU_stuff": "mIoU_st"},
        **{f"{name}_{kind}": f"{head} {kind}" for kind in ("sem_seg", "released") for name, head in SEMANTIC.items()},
        **{f"{name}_{kind}": f"{name} {kind}" for kind in ("mask", "box") for name in ("AP", "AP50", "AR@100")},
    },
)
"""Figures to the heads of their columns, table by table; those that nobody has are left out."""
COLUMNS = {**TABLES[0], **TABLES[1]}
WARNED = ("PQ", "PQ_th", "PQ_st", "pixel_accuracy", "mIoU", "AP_mask")
"""Figures that a warning names when chance comes close."""
AREAS = (("small", "_small"), ("medium", "_medium"), ("large", "_large"))


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
        scored: Comparison,
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
        """Score ``scored`` under every policy and every fit."""
        things = int(scored.cluster_isthing.sum())
        return cls(
            name=name,
            gt=gt,
            photos=scored.overlaps.num_images,
            only_gt=only_gt,
            only_pseudo=only_pseudo,
            taxonomy=scored.taxonomy,
            clusters=(things, len(scored.cluster_ids) - things),
            seeds=seeds,
            masks=masks,
            one_class=scored.one_class_things(),
            perfect=scored.figures(scored.best_classes()),
            scores=tuple(score_policy(fit, policy, range(seeds)) for fit in fits for policy in policies),
        )


def number(value: float) -> str:
    """A percentage for a table."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def render(report: Report, per_class: int = 0) -> str:
    """The report as text, with the ``per_class`` best and worst classes of each policy."""
    parts = [_heading(report), _masks(report)]
    for fitted_on in dict.fromkeys(scores.fitted_on for scores in report.scores):
        parts.append(_tables(report, [scores for scores in report.scores if scores.fitted_on == fitted_on]))
    warnings = [line for scores in report.scores for line in _warnings(scores)]
    if warnings:
        parts.append("\n".join(warnings))
    if per_class:
        parts += [_classes(scores, per_class) for scores in report.scores]
    return "\n\n".join(parts)


def _heading(report: Report) -> str:
    taxonomy = report.taxonomy
    things = int(taxonomy.isthing.sum())
    lines = [
        f"{report.name}: {report.photos} photos scored against {report.gt}",
        f"{report.clusters[0]} thing clusters to {things} classes ({taxonomy.things}), "
        f"{report.clusters[1]} stuff clusters to {len(taxonomy) - things} classes ({taxonomy.stuff}); all in percent",
    ]
    for kind, stems in (("human", report.only_gt), ("pseudo", report.only_pseudo)):
        if stems:
            lines.append(f"left out: {len(stems)} photos with {kind} labels only, such as {stems[0]}")
    return "\n".join(lines)


def _masks(report: Report) -> str:
    lines = []
    if report.masks:
        masks = report.masks
        lines.append(
            f"Things without classes (no matching), from {masks.source}: {masks.masks_per_image:.2f} masks a photo, "
            f"{masks.things_per_image:.2f} human things"
        )
        names = ("AR@1", "AR@10", "AR@100", "AP", "AP50", "AP75", "recall50")
        rows = [["", *names, *(f"AR@100 {area}" for area, _ in AREAS)]]
        for kind, figures in (("masks", masks.mask), ("boxes", masks.box)):
            by_area = [figures[f"AR@100{suffix}"] for _, suffix in AREAS]
            rows.append([kind, *(number(figures[name]) for name in names), *map(number, by_area)])
        lines.append(_grid(rows))
    one = ", ".join(f"{name} {number(value)}" for name, value in report.one_class.items())
    return "\n".join([*lines, f"all things as one class (no matching): {one}"])


def _tables(report: Report, rows: Sequence[PolicyScores]) -> str:
    title = f"Matched on {rows[0].fitted_on}"
    if report.seeds:
        title += f"; by chance: cluster ids dealt anew, mean and deviation of {report.seeds}"
    grids = []
    for table in TABLES:
        names = [name for name in table if any(name in scores.figures for scores in rows)]
        cells = [["policy", *(table[name] for name in names)]]
        for scores in rows:
            cells.append([scores.policy, *_cells(scores.figures, names)])
            if scores.control:
                cells.append(["  by chance", *_cells(scores.control, names)])
                cells.append(["  +-", *_cells(scores.control_sd, names)])
        cells.append(["best class each", *_cells(report.perfect, names)])
        grids.append(_grid(cells))
    return "\n".join([title, *grids])


def _cells(figures: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [number(figures.get(name, math.nan)) for name in names]


def _warnings(scores: PolicyScores) -> list[str]:
    close = [name for name in WARNED if name in scores.close_to_chance()]
    if not close:
        return []
    figures = ", ".join(
        f"{COLUMNS[name]} {number(scores.figures[name])} (chance {number(scores.control[name])})" for name in close
    )
    return [f"warning: {scores.policy}, matched on {scores.fitted_on}, is close to chance: {figures}"]


def _classes(scores: PolicyScores, count: int) -> str:
    ordered = sorted(scores.per_class, key=lambda entry: (-float(entry["PQ"]), -float(entry["IoU"])))
    chosen = ordered if len(ordered) <= 2 * count else [*ordered[:count], *ordered[-count:]]
    rows = [["class", "kind", "PQ", "SQ", "RQ", "IoU", "matched", "false", "missed"]]
    for entry in chosen:
        kind = "thing" if entry["isthing"] else "stuff"
        figures = [number(float(entry[name])) for name in ("PQ", "SQ", "RQ", "IoU")]
        rows.append([str(entry["name"]), kind, *figures, *(str(entry[name]) for name in ("tp", "fp", "fn"))])
    title = f"{scores.policy}, matched on {scores.fitted_on}: best and worst of {len(ordered)} classes"
    return f"{title}\n{_grid(rows)}"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def as_json(report: Report) -> dict[str, Any]:
    """Everything the report holds, in plain types; figures in percent."""
    taxonomy, masks = report.taxonomy, report.masks
    return {
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
