"""The page about a run: plots, settings, counts, caveats, skipped files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from u2seg.report.html import caveat_list, clean, flatten, key_table, tiles
from u2seg.report.pages import Site, key_figures
from u2seg.report.plots import draw_charts

TABLES = (
    ("Counts", "counts"),
    ("Photos", "photos"),
    ("Self-training", "self_training"),
    ("Time", "timings"),
    ("Parts", "parts"),
    ("Weights", "weights"),
    ("Plugins", "plugins"),
    ("Broken plugins", "plugins_broken"),
    ("Versions", "versions"),
    ("Machine", "machine"),
    ("Settings", "config"),
)
"""Headings and keys of ``run.json`` that are shown."""

MAX_SKIPPED = 1000
"""Most skipped files that are listed."""


def run_page(site: Site, notes: Sequence[str]) -> str:
    """Settings, counts, plots, caveats and skipped files; ``notes`` say what this gallery could not show."""
    run = site.dataset.run
    flags = {index: category.isthing for index, category in site.dataset.categories.items()}
    charts = "".join(
        f"<figure><h3>{clean(chart.title)}</h3>{chart.svg}{_key(chart.title)}"
        f"<figcaption>{clean(chart.caption)}</figcaption></figure>"
        for chart in draw_charts(site.summary, flags)
    )
    tables = "".join(
        f"<section><h2>{title}</h2>{key_table(_rows(key, run[key]))}</section>" for title, key in TABLES if run.get(key)
    )
    parts = ["<h1>The run</h1>", caveat_list([*site.dataset.caveats(), *notes]), tiles(key_figures(site))]
    parts.append(f'<h2>What was made</h2><div class="charts">{charts}</div>')
    parts.append(_skipped(run.get("skipped") or []))
    if not run:
        parts.append("<p>There is no run.json, so the settings are not known.</p>")
    parts.append(f'<div class="facts">{tables}</div>')
    return site.page("run", "Run", "".join(parts))


def _rows(key: str, value: Any) -> list[tuple[str, object]]:
    """What is shown of ``run[key]``: leaves, without caveats, which stand at the top of the page."""
    if key == "timings" and isinstance(value, Mapping):
        return [(stage, _seconds(note)) for stage, note in value.items()]
    rows = flatten(value, key if isinstance(value, list) else "")
    return [(name, shown) for name, shown in rows if not name.endswith("caveat")]


def _seconds(note: Any) -> str:
    """``12.3 s (features 8.0, masks 4.1)`` of what a stage noted."""
    if not isinstance(note, Mapping):
        return f"{note} s"
    parts = note.get("parts") or {}
    inside = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if isinstance(value, float))
    resumed = "; resumed" if note.get("resumed") else ""
    return f"{note.get('seconds', '?')} s" + (f" ({inside}{resumed})" if inside or resumed else "")


def _key(title: str) -> str:
    if title != "Areas of segments":
        return ""
    colors = (("things", "--accent"), ("stuff", "--second"))
    return (
        '<p class="key">'
        + "".join(f'<i class="swatch" style="background:var({color})"></i> {name}' for name, color in colors)
        + "</p>"
    )


def _skipped(skipped: Sequence[Any]) -> str:
    rows = [
        (item.get("file", "?"), item.get("reason", "")) if isinstance(item, Mapping) else (item, "")
        for item in skipped[:MAX_SKIPPED]
    ]
    more = f"<p>and {len(skipped) - MAX_SKIPPED:,} more, listed in run.json</p>" if len(skipped) > MAX_SKIPPED else ""
    table = key_table(rows) if rows else "<p>None.</p>"
    return f'<h2 id="skipped">Skipped files ({len(skipped):,})</h2>{table}{more}'
