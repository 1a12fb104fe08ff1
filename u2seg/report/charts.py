"""Histograms of a run as inline SVG, drawn by matplotlib in the colours of the page, light and dark.

Shapes: ``B`` bars.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from u2seg.panoptic import PanopticDataset
from u2seg.report.labels import Summary

ACCENT, SECOND, QUIET, LINE = "#1f5fd0", "#d97a1e", "#63686f", "#e0e0dc"
VARIABLES = {ACCENT: "--accent", SECOND: "--second", QUIET: "--quiet", LINE: "--line"}
"""Variables of gallery.css that replace the colours matplotlib draws with."""
STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "u2seg", "font.size": 8.5, "axes.edgecolor": LINE, "grid.color": LINE},
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color", "text.color"), QUIET),
}


class Chart(NamedTuple):
    """A drawn figure and its words."""

    title: str
    caption: str
    svg: str


def draw_charts(dataset: PanopticDataset, summary: Summary) -> list[Chart]:
    """The figures of a run: class sizes of things and of stuff, and areas."""
    charts, areas = [], {}
    for kind, categories in (("things", dataset.things), ("stuff", dataset.stuff)):
        members = [summary.classes[category.id] for category in categories]
        sizes = np.array(sorted((count.segments for count in members), reverse=True), np.int64)
        areas[kind] = np.concatenate([np.zeros(0), *(count.areas for count in members)])
        words = f"{sizes.sum():,} segments in {np.count_nonzero(sizes)} of {len(sizes)} classes."
        svg = draw_bars({kind: sizes}, np.arange(len(sizes) + 1), "classes, largest first")
        charts.append(Chart(f"Classes of {kind}", words, svg))
    edges = np.logspace(-4, 0, 17)
    bars = {kind: np.histogram(np.clip(values, edges[0], 1.0), edges)[0] for kind, values in areas.items()}
    medians = [f"{np.median(values):.1%} for {kind}" for kind, values in areas.items() if len(values)]
    svg = draw_bars(bars, edges, "share of the photo, logarithmic", log=True)
    charts.append(Chart("Areas of segments", f"Median {', '.join(medians) or 'unknown'}.", svg))
    return charts


def draw_bars(heights: Mapping[str, np.ndarray], edges: np.ndarray, xlabel: str, log: bool = False) -> str:
    """Numbers of segments as bars: an SVG element without namespaces, for use inside HTML.

    Args:
        heights: name and int (B,) of each series.
        edges: float (B + 1,) borders of the bars; fractions where the axis is logarithmic.
        xlabel: what the x axis shows, with its unit.
        log: whether the x axis is logarithmic.
    """
    text = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, 2.3), layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel="segments", xscale="log" if log else "linear")
        for color, (name, values) in zip((ACCENT, SECOND), heights.items(), strict=False):
            axes.stairs(values, edges, fill=True, color=color, alpha=0.75, label=name)
        axes.margins(x=0)
        axes.set_ylim(0, 1.05 * max(values.max(initial=1) for values in heights.values()))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        if log:
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        if len(heights) > 1:
            axes.legend(frameon=False)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text.getvalue().partition("<svg")[2])
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return f"<svg{svg}"
