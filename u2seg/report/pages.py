"""What pages share, and the pages of photos. Functions return HTML and read no pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from u2seg.report.html import caveat_list, clean, css_color, link, pager, script_json, template, tiles
from u2seg.report.layers import VIEWS
from u2seg.report.source import Category, Entry, LabelledSet
from u2seg.report.statistics import Summary
from u2seg.report.work import PREDICTED, media_stem

MAX_MARKS = 40
"""Most names a view of one photo carries; the largest segments get them."""
CLASSES_PER_PAGE = 40

TITLES = {"photo": "Photo", "things": "Things", "stuff": "Stuff", "panoptic": "Panoptic", PREDICTED: "Predicted"}


@dataclass
class Site:
    """What every page needs to know of the others."""

    dataset: LabelledSet
    summary: Summary
    per_page: int
    predicted: Mapping[int, Category] = field(default_factory=dict)
    """Categories of the predictions shown beside, empty if there are none."""

    def __post_init__(self) -> None:
        count = max(1, -(-len(self.dataset.entries) // self.per_page))
        self.photo_pages = ["index.html", *(f"photos_{index:04d}.html" for index in range(2, count + 1))]
        self.used = [index for index in sorted(self.dataset.categories) if self.summary.classes[index].segments]
        count = -(-len(self.used) // CLASSES_PER_PAGE)
        self.class_pages = [f"classes_{index:04d}.html" for index in range(1, count + 1)]
        self._page_of = {c: self.class_pages[place // CLASSES_PER_PAGE] for place, c in enumerate(self.used)}

    def class_link(self, category_id: int) -> str:
        """Where the crops of a class are, empty if it has none."""
        return f"{self._page_of[category_id]}#c{category_id}" if category_id in self._page_of else ""

    def photo_link(self, number: int, view: str) -> str:
        """Where a photo is shown enlarged."""
        return f"{self.photo_pages[number // self.per_page]}#p{number}-{view}"

    def page(self, kind: str, title: str, body: str, data: Any = None) -> str:
        """A whole page of ``kind`` photos, classes or run."""
        places = (
            ("photos", "index.html", "Photos"),
            ("classes", "classes.html", "Classes"),
            ("run", "run.html", "Run"),
        )
        here = {"aria_current": "page"}
        brand = self.dataset.folder.absolute().name or "u2seg"
        return template("page.html").substitute(
            title=clean(f"{title} \u00b7 {brand}"),
            kind=kind,
            brand=clean(brand),
            navigation="".join(link(to, text, **(here if key == kind else {})) for key, to, text in places),
            body=body,
            data=script_json(data or {}),
        )


def key_figures(site: Site) -> list[tuple[str, str]]:
    """What the dataset holds, as (what, number) pairs."""
    summary, categories = site.summary, site.dataset.categories
    used = Counter(categories[index].isthing for index in site.used)
    total = Counter(category.isthing for category in categories.values())
    segments, void = summary.segments_per_photo, summary.void_shares
    skipped = len(site.dataset.run.get("skipped") or [])
    return [
        ("photos", f"{len(site.dataset.entries):,}"),
        ("thing masks", f"{len(summary.thing_areas):,}"),
        ("thing classes in use", f"{used[True]} of {total[True]}"),
        ("stuff classes in use", f"{used[False]} of {total[False]}"),
        ("segments a photo", f"{segments.mean():.1f}" if len(segments) else "\u2013"),
        ("void", f"{void.mean():.1%}" if len(void) else "\u2013"),
        *([("files skipped", f"{skipped:,}")] if skipped else []),
    ]


def photo_page(site: Site, page: int, records: Sequence[Mapping[str, Any]]) -> str:
    """Page ``page`` (from 0) of the photos, made of their drawing ``records``."""
    entries = site.dataset.entries
    views = ["photo", *VIEWS, *([PREDICTED] if site.predicted else [])]
    photos = [_photo_data(entries[record["number"]], record) for record in records]
    used = {mark[0] for photo in photos for view in VIEWS for mark in photo["views"].get(view, ())}
    guessed = {mark[0] for photo in photos for mark in photo["views"].get(PREDICTED, ())}
    classes = {c: _class_data(site.dataset.categories[c], site.class_link(c)) for c in sorted(used)}
    data = {
        "photos": photos,
        "classes": classes,
        "predicted": {c: _class_data(site.predicted[c], "") for c in sorted(guessed)},
    }
    cards = "".join(_card(site, index, photo, entries[photo["number"]], views) for index, photo in enumerate(photos))
    first = page * site.per_page
    items = f"Photos {first + 1}\u2013{first + len(records)} of {len(entries):,}" if records else "No photos"
    everything = f'<button type="button" data-view="all" aria-pressed="true">All {len(views)}</button>'
    buttons = "".join(f'<button type="button" data-view="{v}" aria-pressed="false">{TITLES[v]}</button>' for v in views)
    body = template("photos.html").substitute(
        heading="Photos and their pseudo-labels" if page == 0 else f"Photos, page {page + 1}",
        caveats=caveat_list(site.dataset.caveats()) if page == 0 else "",
        tiles=tiles(key_figures(site)) if page == 0 else "",
        buttons=everything + buttons,
        viewer_buttons=buttons,
        pager=pager(site.photo_pages, page, items),
        cards=cards,
    )
    body = body.replace('<div class="cards">', f'<div class="cards" style="--panels:{len(views)}">', 1)
    return site.page("photos", "Photos" if page == 0 else f"Photos, page {page + 1}", body, data)


def _photo_data(entry: Entry, record: Mapping[str, Any]) -> dict[str, Any]:
    ratio = entry.width / max(1, entry.height)
    notes = [f"{what}: {why}" for what, why in record["problems"]]
    return {
        "number": record["number"],
        "name": entry.name.encode("utf-8", "replace").decode("utf-8"),
        "stem": media_stem(record["number"]),
        "ratio": round(min(max(ratio, 0.2), 5.0), 4),  # beyond, a picture is shown stretched rather than as a line
        "photo": not any(what == "photo" for what, _ in record["problems"]),
        "note": "; ".join(notes),
        "views": {view: marks[:MAX_MARKS] for view, marks in record["views"].items()},
    }


def _class_data(category: Category, href: str) -> list[str]:
    return [category.name, css_color(category.color), href]


def _card(site: Site, index: int, photo: Mapping[str, Any], entry: Entry, views: Sequence[str]) -> str:
    note = f' \u00b7 <span class="bad">{clean(photo["note"])}</span>' if photo["note"] else ""
    return template("card.html").substitute(
        number=photo["number"],
        index=index,
        ratio=photo["ratio"],
        name=clean(entry.name),
        width=entry.width,
        height=entry.height,
        note=note,
        figures="".join(_figure(site, photo, view) for view in views),
        chips=_chips(site, photo["views"].get("panoptic", ())),
    )


def _figure(site: Site, photo: Mapping[str, Any], view: str) -> str:
    name = clean(photo["name"])
    image = '<img loading="lazy" decoding="async" class="{}" src="{}" alt="{}">'
    base = f'<span class="missing">{clean(photo["note"])}</span>'
    if photo["photo"]:
        base = image.format("base", f"{photo['stem']}_photo.jpg", f"Photo {name}" if view == "photo" else "")
    over = ""
    if view in photo["views"]:
        categories = site.predicted if view == PREDICTED else site.dataset.categories
        shown = [categories[mark[0]].name for mark in photo["views"][view]]
        words = clean(", ".join(shown[:8]) + (" and more" if len(shown) > 8 else "") or "none")
        over = image.format("over", f"{photo['stem']}_{view}.png", f"{TITLES[view]} of {name}: {words}")
    return template("figure.html").substitute(
        view=view, photo=base, overlay=over, caption=TITLES[view], label=f"Enlarge {name}, {TITLES[view].lower()}"
    )


def _chips(site: Site, marks: Sequence[Sequence[Any]]) -> str:
    counts = Counter(mark[0] for mark in marks)
    parts = []
    for category_id, count in list(counts.items())[:10]:
        category = site.dataset.categories[category_id]
        swatch = f'<i class="swatch" style="background:{css_color(category.color)}"></i>'
        text = clean(category.name + (f" \u00d7{count}" if count > 1 else ""))
        href = site.class_link(category_id)
        parts.append(f'<a href="{href}">{swatch}{text}</a>' if href else f"<span>{swatch}{text}</span>")
    if len(counts) > 10:
        parts.append(f"<span>+{len(counts) - 10} more</span>")
    return "".join(parts)
