"""The pages of pseudo-classes: a table of all, and the crops of each side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from u2seg.report.html import clean, css_color, pager, template
from u2seg.report.pages import CLASSES_PER_PAGE, Site
from u2seg.report.source import Category
from u2seg.report.statistics import ClassCount


@dataclass(frozen=True)
class Crop:
    """A drawn segment on its class's page."""

    file: str
    number: int
    """of the photo"""
    score: float
    area: int
    """pixels"""


def class_table(site: Site) -> str:
    """The page ``classes.html``: every class in use, the largest first."""
    used = sorted(site.used, key=lambda index: -site.summary.classes[index].segments)
    largest = max((site.summary.classes[index].segments for index in used), default=1)
    heads = "".join(
        f'<th scope="col" class="n"{extra}><button type="button">{name}</button></th>'
        for name, extra in (
            ("segments", ' aria-sort="descending"'),
            ("photos", ""),
            ("mean area", ""),
            ("mean score", ""),
        )
    )
    rows = "".join(
        _row(site.dataset.categories[index], site.summary.classes[index], site.class_link(index), largest)
        for index in used
    )
    empty = [site.dataset.categories[index].name for index in sorted(set(site.dataset.categories) - set(used))]
    body = f"""<h1>Pseudo-classes</h1>
<p>{len(used)} of {len(site.dataset.categories)} classes are in use. A good class shows one kind of thing;
open one to see its segments side by side.</p>
{pager(["classes.html", *site.class_pages], 0, "Table of all; segments of each from page 2 on")}
<div class="wide"><table><thead><tr><th scope="col">class</th>{heads}<th></th></tr></thead>
<tbody>{rows}</tbody></table></div>
{_unused(empty)}"""
    return site.page("classes", "Classes", body)


def _row(category: Category, count: ClassCount, href: str, largest: int) -> str:
    numbers = (
        (count.segments, f"{count.segments:,}"),
        (count.photos, f"{count.photos:,}"),
        (count.mean_area, f"{count.mean_area:.1%}"),
        (count.mean_score, f"{count.mean_score:.2f}"),
    )
    cells = "".join(f'<td class="n" data-value="{value:.6g}">{text}</td>' for value, text in numbers)
    swatch = f'<i class="swatch" style="background:{css_color(category.color)}"></i>'
    return (
        f'<tr><th scope="row"><a class="name" href="{href}">{swatch}{clean(category.name)}</a></th>{cells}'
        f'<td><i class="meter" style="width:{max(0.1, 9 * count.segments / largest):.2f}rem"></i></td></tr>'
    )


def _unused(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:200]) + (f" and {len(names) - 200} more" if len(names) > 200 else "")
    return f"<h2>Classes without a segment ({len(names)})</h2><p>{clean(shown)}</p>"


def class_page(site: Site, page: int, crops: Mapping[int, Sequence[Crop]]) -> str:
    """Page ``page`` (from 0) of the classes' crops."""
    shown = site.used[page * CLASSES_PER_PAGE : (page + 1) * CLASSES_PER_PAGE]
    sections = "".join(_section(site, index, crops.get(index, ())) for index in shown)
    names = [site.dataset.categories[index].name for index in (shown[0], shown[-1])]
    title = f"Classes {names[0]} to {names[1]}"
    turn = pager(["classes.html", *site.class_pages], page + 1, f"{len(site.used)} classes in use")
    return site.page("classes", title, f"<h1>{clean(title)}</h1>{turn}{sections}{turn}")


def _section(site: Site, category_id: int, crops: Sequence[Crop]) -> str:
    category, count = site.dataset.categories[category_id], site.summary.classes[category_id]
    facts = (
        f"{count.segments:,} segment{'s' * (count.segments != 1)} "
        f"in {count.photos:,} photo{'s' * (count.photos != 1)}, "
        f"mean area {count.mean_area:.1%}"
    )
    if len(crops) < count.segments:
        facts += f"; {len(crops)} shown" + (", drawn at random" if crops else "")
    view = "things" if category.isthing else "panoptic"
    ordered = sorted(crops, key=lambda crop: (-crop.score, -crop.area, crop.file))
    pictures = "".join(_picture(site, crop, category.name, view) for crop in ordered)
    return template("class.html").substitute(
        id=category_id, name=clean(category.name), color=css_color(category.color), facts=facts, crops=pictures
    )


def _picture(site: Site, crop: Crop, name: str, view: str) -> str:
    photo = clean(site.dataset.entries[crop.number].name)
    score = f"<span>{crop.score:.2f}</span>" if crop.score < 1 else ""
    return (
        f'<a href="{site.photo_link(crop.number, view)}" title="{photo}">'
        f'<img loading="lazy" decoding="async" src="{crop.file}" alt="{clean(name)} in {photo}">{score}</a>'
    )
