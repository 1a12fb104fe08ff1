"""docs/hooks.md says what the hookspecs and Protocols say."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from u2seg.plugins import api
from u2seg.plugins.api import PARTS

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(u2seg_\w+\(.*?\))`.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def call(name, function, skip=0):
    """``name(argument, ...)``."""
    return f"{name}({', '.join(list(inspect.signature(function).parameters)[skip:])})"


def members(protocol):
    """Methods, as they are called, and attributes."""
    methods = [call(name, m, 1) for name, m in vars(protocol).items() if inspect.isfunction(m) and name[0] != "_"]
    return {*methods, *protocol.__annotations__}


def test_each_hook_has_a_section_with_its_signature():
    hooks = {name: hook for name, hook in vars(api).items() if name.startswith("u2seg_")}
    assert {*SECTIONS} == {call(name, hook) for name, hook in hooks.items()}


@pytest.mark.parametrize("kind", PARTS)
def test_a_section_names_keys_members_and_what_is_optional(kind):
    part = PARTS[kind]
    title = next(line for line in PAGE.splitlines() if line.startswith(f"## `{part.hook}()`"))
    assert tuple(re.findall(r"`(U2SEG\.[A-Z.]+)`", title)) == part.keys
    text = " ".join(SECTIONS[f"{part.hook}()"].split())
    must, may = re.search(r"Must have (.*?)\. May have (.*)", text).groups()
    assert {*re.findall(r"`(.*?)`", must)} == members(part.contract)
    assert set().union(*map(members, part.optional)) <= {*re.findall(r"`(.*?)`", may)}


def test_the_table_of_context_is_that_of_the_code():
    header, *rows = (
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")
    )
    given = {row[0]: {name for name, cell in zip(header, row, strict=True) if cell == "yes"} for row in rows[:7]}
    assert {kind: set(part.context) for kind, part in PARTS.items()} == {kind: given[kind] for kind in PARTS}


def test_the_registries_are_where_the_page_says():
    pytest.importorskip("detectron2")
    paths = re.findall(r"`(u2seg\.[a-z_.]+)\.([A-Z_0-9]+)`", PAGE)
    assert len(paths) == 4
    for module, name in paths:
        assert getattr(importlib.import_module(module), name)._name == name
