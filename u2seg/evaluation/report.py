"""A `Report` as text for people and as JSON; every figure stands beside the policy that made it, and chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from u2seg.evaluation.control import PolicyScores
from u2seg.evaluation.labels import Report

COLUMNS = {
    **{name: name for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")},
    "pixel_accuracy": "PixAcc",
    "mIoU": "mIoU",
    "pixel_accuracy_stuff": "PixAcc_st",
    "mIoU_stuff": "mIoU_st",
}
AREAS = (("small", "_small"), ("medium", "_medium"), ("large", "_large"))


def number(value: float) -> str:
    """A percentage for a table."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def render(report: Report, per_class: int = 0) -> str:
    """The report as text, with the ``per_class`` best and worst classes of each policy."""
    parts = [_heading(report), _masks(report)]
    for fitted_on in dict.fromkeys(scores.fitted_on for scores in report.scores):
        parts.append(_table(report, [scores for scores in report.scores if scores.fitted_on == fitted_on]))
    warnings = [line for scores in report.scores for line in _warnings(scores)]
    if warnings:
        parts.append("\n".join(warnings))
    if per_class:
        parts += [_classes(scores, per_class) for scores in report.scores]
    return "\n\n".join(parts)


def _heading(report: Report) -> str:
    pairing, taxonomy = report.pairing, report.taxonomy
    things = int(taxonomy.isthing.sum())
    lines = [
        f"{report.request.scored.pseudo}: {len(pairing.pairs)} photos scored against {report.request.scored.gt}",
        f"{report.clusters[0]} thing clusters to {things} classes ({taxonomy.things}), "
        f"{report.clusters[1]} stuff clusters to {len(taxonomy) - things} classes ({taxonomy.stuff}); all in percent",
    ]
    if pairing.only_gt:
        lines.append(f"left out: {len(pairing.only_gt)} photos with human labels only, such as {pairing.only_gt[0]}")
    if pairing.only_pseudo:
        lines.append(
            f"left out: {len(pairing.only_pseudo)} photos with pseudo labels only, such as {pairing.only_pseudo[0]}"
        )
    return "\n".join(lines)


def _masks(report: Report) -> str:
    masks = report.masks
    lines = [
        f"Things without classes (no matching), from {masks.source}: {masks.masks_per_image:.2f} masks a photo, "
        f"{masks.things_per_image:.2f} human things"
    ]
    names = ("AR@1", "AR@10", "AR@100", "AP", "AP50", "AP75", "recall50")
    rows = [["", *names, *(f"AR@100 {area}" for area, _ in AREAS)]]
    for kind, figures in (("masks", masks.mask), ("boxes", masks.box)):
        by_area = [figures[f"AR@100{suffix}"] for _, suffix in AREAS]
        rows.append([kind, *(number(figures[name]) for name in names), *map(number, by_area)])
    lines.append(_grid(rows))
    one = report.one_class
    lines.append(
        f"all things as one class: PQ_th {number(one['PQ_th'])}, SQ_th {number(one['SQ_th'])}, "
        f"RQ_th {number(one['RQ_th'])}"
    )
    return "\n".join(lines)


def _table(report: Report, rows: Sequence[PolicyScores]) -> str:
    cells = [["policy", *COLUMNS.values()]]
    for scores in rows:
        cells.append([scores.policy, *(number(scores.figures[name]) for name in COLUMNS)])
        if scores.control:
            cells.append(["  by chance", *(number(scores.control[name]) for name in COLUMNS)])
            cells.append(["  +-", *(number(scores.control_sd[name]) for name in COLUMNS)])
    cells.append(["best class each", *(number(report.perfect[name]) for name in COLUMNS)])
    title = f"Matched on {rows[0].fitted_on}"
    if report.request.seeds:
        title += f"; by chance: cluster ids dealt anew, mean and deviation of {report.request.seeds}"
    return f"{title}\n{_grid(cells)}"


def _warnings(scores: PolicyScores) -> list[str]:
    close = [name for name in ("PQ", "PQ_th", "PQ_st", "pixel_accuracy", "mIoU") if name in scores.close_to_chance()]
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
    pairing, taxonomy, request = report.pairing, report.taxonomy, report.request
    return {
        "pseudo": str(request.scored.pseudo),
        "gt": str(request.scored.gt),
        "photos": {
            "scored": len(pairing.pairs),
            "only_gt": list(pairing.only_gt),
            "only_pseudo": list(pairing.only_pseudo),
        },
        "clusters": {"things": report.clusters[0], "stuff": report.clusters[1]},
        "classes": {
            "things": int(taxonomy.isthing.sum()),
            "things_level": taxonomy.things,
            "stuff": int((~taxonomy.isthing).sum()),
            "stuff_level": taxonomy.stuff,
        },
        "class_agnostic": {
            "masks_from": report.masks.source,
            "masks_per_image": report.masks.masks_per_image,
            "things_per_image": report.masks.things_per_image,
            "mask": report.masks.mask,
            "box": report.masks.box,
            "one_class": report.one_class,
        },
        "best_class_each": report.perfect,
        "control_seeds": request.seeds,
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
