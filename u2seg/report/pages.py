"""The gallery's pages as HTML; the markup lies in ``templates/``, where jinja2 escapes every value.

Functions take what was drawn and counted, and read no pixel. Histograms are inline SVG, drawn by matplotlib in the
colours of the page, light and dark.

Shapes: ``B`` bars.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from u2seg.panoptic import Category, PanopticDataset
from u2seg.report.labels import Annotation, Summary
from u2seg.report.pictures import PREDICTED, VIEWS, Record, media_stem

MAX_MARKS, MAX_SKIPPED, CLASSES_PER_PAGE = 40, 1000, 40
"""Most names on a view of one photo (of its largest segments), and most skipped files that the run page lists."""
ACCENT, SECOND, QUIET, LINE = "#1f5fd0", "#d97a1e", "#63686f", "#e0e0dc"
VARIABLES = {ACCENT: "--accent", SECOND: "--second", QUIET: "--quiet", LINE: "--line"}
"""Variables of gallery.css that replace the colours matplotlib draws with."""
STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "u2seg", "font.size": 8.5, "axes.edgecolor": LINE, "grid.color": LINE},
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color", "text.color"), QUIET),
}


class Crop(NamedTuple):
    """A drawn mask on its class's page: its file, the number of its photo, its score and its share of the photo."""

    file: str
    number: int
    score: float
    share: float


class Site:
    """What every page needs to know of the dataset and of the other pages."""

    def __init__(
        self,
        dataset: PanopticDataset,
        annotations: Iterable[Sequence[Annotation]],
        run: Mapping[str, Any],
        per_page: int,
        predictions: PanopticDataset | None = None,
    ) -> None:
        """Lay out the pages of ``dataset``; ``run`` is its run.json, ``annotations`` those of each photo."""
        self.dataset, self.run, self.per_page = dataset, run, per_page
        self.brand = dataset.root.absolute().name or "u2seg"
        self.categories = {category.id: category for category in dataset.categories}
        self.predicted = {category.id: category for category in predictions.categories} if predictions else {}
        self.views = ["photo", *VIEWS, *([PREDICTED] if predictions else [])]
        more = range(2, 1 + -(-len(dataset.photos) // per_page))
        self.photo_pages = ["index.html", *(f"photos_{page:04d}.html" for page in more)]
        counts = Counter(annotation.category_id for of_photo in annotations for annotation in of_photo)
        self.thing_masks = sum(counts[category.id] for category in dataset.things)
        self.used = sorted(counts)
        pages = range(1, 1 + -(-len(self.used) // CLASSES_PER_PAGE))
        self.class_pages = [f"classes_{page:04d}.html" for page in pages]
        self._place = {category_id: place for place, category_id in enumerate(self.used)}

    def class_link(self, category_id: int) -> str:
        """Where the crops of a class are, empty if it has none."""
        place = self._place.get(category_id)
        return "" if place is None else f"{self.class_pages[place // CLASSES_PER_PAGE]}#c{category_id}"

    def caveats(self) -> list[str]:
        """Every caveat that the dataset, or its run.json, carries; each once."""
        texts = [text for holder in (self.dataset.info, self.run) for text in holder.get("caveats") or []]
        return list(dict.fromkeys(map(str, texts)))


def photo_page(site: Site, page: int, records: Sequence[Record], summary: Summary | None = None) -> str:
    """Page ``page`` (from 0) of the photos, made of what was drawn; with a ``summary`` its figures come first."""
    photos = [_describe(site, record) for record in records]
    data: dict[str, Any] = {"photos": photos}
    for key, views, categories in (("classes", VIEWS, site.categories), ("predicted", (PREDICTED,), site.predicted)):
        used = sorted({mark[0] for photo in photos for view in views for mark in photo["views"].get(view, ())})
        links = {index: "" if key == "predicted" else site.class_link(index) for index in used}
        data[key] = {index: (categories[index].name, css_color(categories[index]), links[index]) for index in used}
    return _render("photos.html", site, page=page, photos=photos, data=data, summary=summary)


def _describe(site: Site, record: Record) -> dict[str, Any]:
    """What the page and its script know of a photo."""
    photo = site.dataset.photos[record.number]
    views = {view: marks[:MAX_MARKS] for view, marks in record.views.items()}
    return {
        "number": record.number,
        "name": photo.file_name,
        "size": (photo.width, photo.height),
        "stem": media_stem(record.number),
        # Beyond, a picture is shown stretched rather than as a line.
        "ratio": round(min(max(photo.width / photo.height, 0.2), 5.0), 4),
        "readable": not any(what == "photo" for what, _ in record.problems),
        "note": "; ".join(f"{what}: {why}" for what, why in record.problems),
        "views": views,
        "chips": list(Counter(mark[0] for mark in views.get("panoptic", ())).items()),
    }


def class_table(site: Site, summary: Summary) -> str:
    """The page of all classes, the largest first."""
    ranked = sorted(site.used, key=lambda index: -summary.classes[index].segments)
    return _render("classes.html", site, ranked=ranked, counts=summary.classes)


def class_page(site: Site, page: int, summary: Summary, crops: Mapping[int, Sequence[Crop]]) -> str:
    """Page ``page`` (from 0) of the classes' crops, the best first."""
    shown = site.used[page * CLASSES_PER_PAGE : (page + 1) * CLASSES_PER_PAGE]
    ranked = {index: sorted(crops.get(index, ()), key=lambda crop: (-crop.score, -crop.share)) for index in shown}
    return _render("crops.html", site, page=page, crops=ranked, counts=summary.classes)


def run_page(site: Site, summary: Summary, notes: Sequence[str]) -> str:
    """Settings, counts, charts, caveats and skipped files; ``notes`` say what this gallery could not show."""
    items = [item if isinstance(item, Mapping) else {"file": item} for item in site.run.get("skipped") or []]
    skipped = [(item.get("file", "?"), item.get("reason", "")) for item in items[:MAX_SKIPPED]]
    facts: dict[str, Any] = {"run": {}}
    for key, value in site.run.items():
        if key not in ("caveats", "skipped"):
            (facts if isinstance(value, Mapping) else facts["run"])[key] = value
    texts = {
        key: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6) for key, value in facts.items()
    }
    charts = draw_charts(site.dataset, summary)
    context = {"charts": charts, "facts": texts, "skipped": skipped, "num_skipped": len(items)}
    return _render("run.html", site, summary=summary, notes=notes, **context)


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
    """Numbers of segments, int (B,) by series, as bars: an SVG element without namespaces, for use inside HTML.

    ``edges`` float (B + 1,) are the borders of the bars, fractions on a logarithmic axis; ``xlabel`` has the unit.
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


def css_color(category: Category) -> str:
    """The colour of a class as CSS."""
    return "#{:02x}{:02x}{:02x}".format(*category.color)


TEMPLATES = Environment(
    loader=PackageLoader("u2seg.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters["css"] = css_color


def _render(template: str, site: Site, **context: Any) -> str:
    return TEMPLATES.get_template(template).render(site=site, **context)
