"""What factories are given, what the Protocols ask for, and that type checkers may look at the package."""

import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest
from plugin_parts import GOOD

from u2seg.config import fill, get_pseudo_cfg
from u2seg.plugins import registry
from u2seg.plugins.api import PARTS, hookimpl
from u2seg.plugins.rules import RULES
from u2seg.pseudo import parts
from u2seg.pseudo.pipeline import dependencies
from u2seg.pseudo.recipe import Recipe

ROOT = Path(__file__).parents[2]
GIVEN = {}


def recording(kind, names):
    """A factory that names ``names`` and notes what it was given."""

    def factory(**context):
        GIVEN[kind] = context
        return GOOD[kind]()

    keyword = inspect.Parameter.KEYWORD_ONLY
    factory.__signature__ = inspect.Signature([inspect.Parameter(name, keyword) for name in names])
    return factory


@pytest.fixture
def recipe(monkeypatch):
    plugin = types.ModuleType("recording")
    for kind, part in PARTS.items():
        setattr(plugin, part.hook, hookimpl(lambda k=kind, p=part: {"mine": recording(k, p.context)}))
    plugins = registry.load_plugins([], "")
    plugins.add("recording", plugin, "recording 1.0")
    assert not plugins.broken
    monkeypatch.setattr(parts, "installed_plugins", lambda: plugins)
    cfg = get_pseudo_cfg()
    names = [f"U2SEG.{key}.NAME" for key in ("FEATURES", "MASKS", "REFINE", "CLUSTERS", "STUFF")]
    options = [word for name in names for word in (name, "mine")]
    fill(cfg, options=[*options, "U2SEG.SEED", "7", "U2SEG.NUM_THINGS", "5", "U2SEG.NUM_STUFF", "3"])
    GIVEN.clear()
    return Recipe.from_config(cfg)


def test_every_factory_is_given_what_its_kind_is_promised(recipe):
    recipe.check("cpu")
    features = {"NAME": "mine", "ARGS": {"mine": {}}}
    common = {"device": "cpu", "random_state": 7}
    assert {
        "feature extractor": common,
        "refiner": common,
        "mask generator": {**common, "features": features},
        "clusterer": {**common, "features": features, "n_clusters": 5},
        "stuff segmenter": {**common, "features": features, "num_classes": 3},
    } == GIVEN


def test_what_depends_on_the_seed_is_made_again_with_another(recipe):
    weights = {"things": {}, "stuff": {}}
    settings = dependencies(recipe, weights)
    assert all(settings[product]["U2SEG.SEED"] == 7 for product in ("fit", "masks", "stuff", "cluster"))


def test_a_part_that_stands_alone_is_given_defaults(recipe):
    parts.Part("mask generator", "mine", "{}").build()
    assert GIVEN["mask generator"] == {"device": "cpu", "random_state": 0, "features": None}


@pytest.mark.parametrize("kind", PARTS)
def test_good_parts_are_what_the_protocols_ask_for_and_every_method_has_a_rule(kind):
    part = GOOD[kind]()
    assert isinstance(part, PARTS[kind].contract)
    for protocol in PARTS[kind].optional:
        assert not isinstance(part, protocol)
    for protocol in (PARTS[kind].contract, *PARTS[kind].optional):
        methods = [name for name, member in vars(protocol).items() if inspect.isfunction(member) and name[0] != "_"]
        assert {*methods} <= {*RULES, "refine_many"}


def test_the_package_says_that_it_is_typed(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "u2seg" / "py.typed").is_file()
