"""Small pieces of HTML, every value escaped on its way in.

The markup lies in ``templates/``; here it is only filled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

ASSETS = ("gallery.css", "gallery.js")


@cache
def template(name: str) -> Template:
    """The template ``name`` of this package."""
    return Template(asset(name))


def asset(name: str) -> str:
    """The text of a file of ``templates/``."""
    return (files("u2seg.report") / "templates" / name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<`` can end it, no line separator can break it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def clean(text: object) -> str:
    """``text`` escaped for HTML; bytes of a file name that are no UTF-8 become question marks."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def css_color(color: Sequence[int]) -> str:
    """RGB 0..255 as CSS."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def link(href: str, text: str, **attributes: str) -> str:
    """An ``<a>``; ``class_`` stands for ``class``."""
    extra = "".join(f' {key.rstrip("_").replace("_", "-")}="{clean(value)}"' for key, value in attributes.items())
    return f'<a href="{clean(quote(href, safe="/#?=-_."))}"{extra}>{clean(text)}</a>'


def caveat_list(caveats: Sequence[str]) -> str:
    """What the reader must know first, or nothing."""
    if not caveats:
        return ""
    return f'<ul class="caveats">{"".join(f"<li>{clean(text)}</li>" for text in caveats)}</ul>'


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Key figures: (what, value) pairs."""
    pairs = "".join(f"<div><dt>{clean(what)}</dt><dd>{clean(value)}</dd></div>" for what, value in values)
    return f'<dl class="tiles">{pairs}</dl>'


def pager(names: Sequence[str], current: int, items: str) -> str:
    """Links to the first, the last and the nearest of the pages ``names``; this one is at index ``current``."""
    if len(names) < 2:
        return f'<p class="pager"><span class="where">{clean(items)}</span></p>'
    near = {0, len(names) - 1, *range(max(0, current - 3), min(len(names), current + 4))}
    parts = [_step(names, current - 1, "prev", "\u2190 Previous")]
    last = -1
    for index in sorted(near):
        if index > last + 1:
            parts.append("<span>\u2026</span>")
        last = index
        here = f'<b aria-current="page">{index + 1}</b>'
        parts.append(here if index == current else link(names[index], str(index + 1)))
    parts.append(_step(names, current + 1, "next", "Next \u2192"))
    parts.append(f'<span class="where">{clean(items)}</span>')
    return f'<nav class="pager" aria-label="Pages">{"".join(parts)}</nav>'


def _step(names: Sequence[str], index: int, rel: str, text: str) -> str:
    if 0 <= index < len(names):
        return link(names[index], text, rel=rel)
    return f'<span class="off" aria-hidden="true">{text}</span>'


def key_table(rows: Iterable[tuple[str, object]]) -> str:
    """A table of (key, value) pairs, or a dash where there are none."""
    body = "".join(f'<tr><th scope="row">{clean(key)}</th><td>{clean(value)}</td></tr>' for key, value in rows)
    return f'<div class="wide"><table><tbody>{body}</tbody></table></div>' if body else "<p>\u2013</p>"


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, object]]:
    """Leaves of nested mappings and lists of mappings as (dotted key, value), in their order."""
    if isinstance(tree, Mapping) and tree:
        return [
            leaf for key, value in tree.items() for leaf in flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        return [leaf for index, item in enumerate(tree) for leaf in flatten(item, f"{prefix}[{index}]")]
    if isinstance(tree, list):
        tree = ", ".join(map(str, tree))
    return [(prefix, round(tree, 3) if isinstance(tree, float) and abs(tree) > 1 else tree)] if prefix else []
