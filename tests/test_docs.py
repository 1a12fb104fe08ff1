"""The pages of the documentation: short, their links lead somewhere, and the code in them is what works."""

import functools
import importlib.util
import re
import shlex
import types
from pathlib import Path

import pytest

from u2seg.plugins import api, checks
from u2seg.plugins.api import PARTS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "MODEL_ZOO.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_pages_that_code_and_configs_name_exist():
    for folder in ("u2seg", "tools", "configs", "datasets", "examples"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml"):
                for page in re.findall(r"docs/[a-z_/]+\.md", file.read_text(encoding="utf-8")):
                    assert (ROOT / page).exists(), f"{file.relative_to(ROOT)} names {page}"


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
    assert {part.hook for part in PARTS.values()} <= set(hooks)
    for name in (*hooks, "DATASET_MAPPERS", "TRAINERS", "U2SEG_EVALUATORS", "PSEUDO_LABEL_GENERATORS"):
        assert name in text, f"docs/plugins.md does not speak of {name}"


def commands(page):
    """Words of every command of a page that starts one of our tools or scripts."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in joined(block).splitlines()]
    lines += [span.replace("\n", " ") for span in re.findall(r"`(python (?:tools|datasets)/[^`]+)`", text)]
    for line in lines:
        if line.strip().startswith(("python tools/", "python datasets/")):
            yield shlex.split(line.replace("[", "").replace("]", ""), comments=True)[1:]


def joined(block):
    return re.sub(r"\\\n\s*", " ", block)


def parse(words):
    """Let the tool ``words[0]`` parse the rest; what the docs leave out as ``...`` is filled in."""
    tool, words = words[0], words[1:]
    if "..." in words:
        place = words.index("...")
        needed = [] if place and words[place - 1] == "--config-file" else ["--config-file"]
        words[place : place + 1] = [*needed, "some.yaml"]
    spec = importlib.util.spec_from_file_location(f"documented_{Path(tool).stem}", ROOT / tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reader = getattr(module, "parse", None) or getattr(module, "argument_parser", lambda: None)
    return (module.parse(words) if hasattr(module, "parse") else reader().parse_args(words)), words


PARSED = ("train_net", "demo", "generate_pseudo", "evaluate_pseudo", "visualize_pseudo")
COMMANDS = [(page, words) for page in PAGES if page.parent.name != "research" for words in commands(page)]


def test_there_are_commands_to_check():
    assert {Path(words[0]).stem for _, words in COMMANDS} > set(PARSED)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: value.name if hasattr(value, "name") else "")
def test_each_command_parses_and_its_config_and_keys_exist(page, words):
    assert (ROOT / words[0]).is_file(), f"{page.name} runs {words[0]}"
    if Path(words[0]).stem not in PARSED:
        benchmark = ROOT / "tests" / "benchmarks" / f"{words[1]}.py" if words[0] == "tools/benchmark.py" else None
        source = (benchmark or ROOT / words[0]).read_text(encoding="utf-8")
        assert not [word for word in words if word.startswith("--") and f'"{word}"' not in source]
        return
    if len(words) == 1:  # the tool is mentioned, not run
        return
    args, words = parse(list(words))
    config = getattr(args, "config_file", None)
    if config and config.endswith(".yaml") and config != "some.yaml":  # else it stands for several
        assert (ROOT / config).is_file(), f"{page.name} names {config}"
    keys = [*(getattr(args, "opts", None) or ()), *(getattr(args, "key_values", None) or ())][::2]
    for key in keys:
        assert is_key(key), f"{page.name} sets {key}"


def is_key(key):
    node = config()
    for name in key.split("."):
        if node.is_new_allowed():
            return True
        if name not in node:
            return False
        node = node[name]
    return True


@functools.cache
def config():
    """Every key of training, labelling and prediction."""
    pytest.importorskip("detectron2")
    import u2seg.stego.trainer  # noqa: F401
    from u2seg.engine.config import get_cfg

    return get_cfg()


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "research"], ids=lambda page: page.name)
def test_every_key_and_config_that_is_mentioned_exists(page):
    text = page.read_text(encoding="utf-8")
    for key in re.findall(r"\b(?:U2SEG|STEGO|TEST\.MATCHING|MODEL\.U2SEG)(?:\.[A-Z][A-Z0-9_]*)+\b(?!\.?[{*])", text):
        assert is_key(key), f"{page.name} speaks of {key}"
    for path in re.findall(r"(?<![\w/-])[\w/-]*configs/[\w/-]+\.yaml\b", text):
        assert any((place / path).is_file() for place in (ROOT, page.parent)), f"{page.name} names {path}"
