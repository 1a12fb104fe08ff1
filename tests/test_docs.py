"""The pages of the documentation: short, their links lead somewhere, and the code in them is what works."""

import re
import types
from pathlib import Path

import pytest

from u2seg.plugins import api, checks
from u2seg.plugins.registry import KINDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "MODEL_ZOO.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda page: page.name)
def test_a_page_serves_one_task(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= (150 if page.name == "README.md" else 100)


def test_the_smallest_plugin_keeps_the_contract():
    code = re.search(r"```python\n(# my_masks\.py\n.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)[1]
    module = types.ModuleType("my_masks")
    exec(code, module.__dict__)
    checks.check_mask_generator(module.u2seg_mask_generators()["middle"](share=0.3))


def test_every_hook_and_registry_is_documented():
    text = (ROOT / "docs" / "plugins.md").read_text()
    hooks = [name for name in dir(api) if name.startswith("u2seg_")]
    assert set(KINDS.values()) <= set(hooks)
    for name in (*hooks, "DATASET_MAPPERS", "TRAINERS", "U2SEG_EVALUATORS", "PSEUDO_LABEL_GENERATORS"):
        assert name in text, f"docs/plugins.md does not speak of {name}"
