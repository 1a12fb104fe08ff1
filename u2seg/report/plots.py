"""Bar charts as inline SVG: text and colours follow the page's own style, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from u2seg.report.statistics import Summary

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 14, 46


@dataclass(frozen=True)
class Chart:
    """A drawn figure and its words."""

    title: str
    caption: str
    svg: str


def bars(series: Sequence[tuple[str, np.ndarray]], ticks: Sequence[tuple[float, str]], x: str, y: str, alt: str) -> str:
    """An SVG bar chart; with several series, the bars of one place stand side by side.

    Args:
        series: name and heights float (B,) of each, not negative.
        ticks: position in bars (0 is the left edge, B the right one) and text of each mark on the x axis.
        x: what the x axis shows, with its unit.
        y: what the y axis shows.
        alt: the chart in words.
    """
    count = max(1, *(len(heights) for _, heights in series))
    steps = _steps(max(1.0, *(float(np.max(heights, initial=0)) for _, heights in series)))
    step_x = (WIDTH - LEFT - RIGHT) / count
    step_y = (HEIGHT - TOP - BOTTOM) / steps[-1]
    base = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}" class="chart">']
    for value in steps:
        level = base - value * step_y
        parts.append(f'<path class="grid" d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{level + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    width = step_x / len(series)
    gap = min(1.5, width * 0.15)
    for place, (name, heights) in enumerate(series):
        path = "".join(
            f"M{LEFT + step_x * i + width * place + gap / 2:.2f} {base}v{-h * step_y:.2f}h{width - gap:.2f}V{base}z"
            for i, h in enumerate(map(float, heights))
            if h > 0
        )
        parts.append(f'<path class="series-{place}" d="{path}"><title>{escape(name)}</title></path>')
    for position, text in ticks:
        parts.append(
            f'<text x="{LEFT + step_x * position:.1f}" y="{base + 16}" text-anchor="middle">{escape(text)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    parts.append(
        f'<text class="axis" transform="translate(15 {(TOP + base) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text></svg>"
    )
    return "".join(parts)


def _steps(top: float) -> list[float]:
    """Round numbers from 0 to at least ``top``, about five of them."""
    rough = top / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    step = max(1.0, step)
    return [step * index for index in range(math.ceil(top / step) + 1)]


def _short(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _plural(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def draw_charts(summary: Summary, isthing: dict[int, bool]) -> list[Chart]:
    """The figures of a run: cluster sizes of things and of stuff, areas, segments of a photo, void."""
    return [
        _sizes(summary, isthing, True),
        _sizes(summary, isthing, False),
        _areas(summary),
        _per_photo(summary),
        _void(summary),
    ]


def _sizes(summary: Summary, isthing: dict[int, bool], things: bool) -> Chart:
    kind = "thing" if things else "stuff"
    counts = np.array(sorted((c.segments for i, c in summary.classes.items() if isthing[i] == things), reverse=True))
    if not len(counts):
        return Chart(f"Sizes of {kind} classes", f"There are no {kind} classes.", "")
    used = int((counts > 0).sum())
    tenth = max(1, round(used / 10))
    share = counts[:tenth].sum() / max(1, counts.sum())
    caption = (
        f"{_plural(int(counts.sum()), 'segment')} in {used} of {len(counts)} classes; median {np.median(counts):g}, "
        f"largest {counts[0]:,}. The largest tenth of the used classes holds {share:.0%}."
    )
    ticks = [(0.5, "1"), (len(counts) - 0.5, str(len(counts)))] if len(counts) > 1 else [(0.5, "1")]
    svg = bars([(kind, counts)], ticks, f"{kind} classes, largest first", "segments", caption)
    return Chart(f"Sizes of {kind} classes", caption, svg)


def _areas(summary: Summary) -> Chart:
    edges = np.logspace(-4, 0, 17)
    shares = [np.clip(areas, edges[0], 1.0) for areas in (summary.thing_areas, summary.stuff_areas)]
    series = [
        (name, np.histogram(areas, edges)[0].astype(float))
        for name, areas in zip(("things", "stuff"), shares, strict=True)
    ]
    words = [
        f"{name}: median {np.median(areas):.1%} of the photo, {np.mean(areas < 0.01):.0%} under 1%"
        for name, areas in (("things", summary.thing_areas), ("stuff", summary.stuff_areas))
        if len(areas)
    ]
    caption = "; ".join(words).capitalize() + "." if words else "There are no segments."
    ticks = [(0, "0.01%"), (4, "0.1%"), (8, "1%"), (12, "10%"), (16, "100%")]
    svg = bars(series, ticks, "share of the photo, logarithmic", "segments", caption)
    return Chart("Areas of segments", caption, svg)


def _per_photo(summary: Summary) -> Chart:
    values = summary.segments_per_photo
    if not len(values):
        return Chart("Segments of a photo", "There are no photos.", "")
    shown = np.minimum(values, 40)
    counts = np.bincount(shown, minlength=11)
    over = int((values > 40).sum())
    caption = (
        f"Mean {values.mean():.1f}, from {values.min()} to {values.max()}; "
        f"{_plural(int((values == 0).sum()), 'photo')} without any"
        + (f"; {over} with more than 40 in the last bar." if over else ".")
    )
    step = 1 if len(counts) <= 16 else 5
    ticks = [(index + 0.5, str(index)) for index in range(0, len(counts), step)]
    svg = bars([("photos", counts)], ticks, "panoptic segments of a photo", "photos", caption)
    return Chart("Segments of a photo", caption, svg)


def _void(summary: Summary) -> Chart:
    values = summary.void_shares
    if not len(values):
        return Chart("Void", "There are no photos.", "")
    counts = np.histogram(values, np.linspace(0, 1, 21))[0]
    caption = (
        f"Mean {values.mean():.1%} of a photo in no segment; {_plural(int((values > 0.5).sum()), 'photo')} over half."
    )
    ticks = [(0, "0%"), (5, "25%"), (10, "50%"), (15, "75%"), (20, "100%")]
    svg = bars([("photos", counts)], ticks, "share of the photo in no segment", "photos", caption)
    return Chart("Void", caption, svg)
