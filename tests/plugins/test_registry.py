"""Plugins of third parties: found, checked, reported; never in the way of the others."""

import logging
import types

import pytest

from u2seg.errors import PluginError, UsageError
from u2seg.plugins import registry
from u2seg.plugins.api import CONTRACT_VERSION, hookimpl
from u2seg.plugins.registry import load_plugins


class EntryPoint:
    """What importlib.metadata gives, around an object or an error."""

    def __init__(self, name, plugin):
        self.name, self._plugin, self.value = name, plugin, f"package of {name}"

    def load(self):
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin


def plugin(**hooks):
    module = types.ModuleType("third_party")
    for name, factories in hooks.items():
        setattr(module, name, hookimpl(_returning(factories)))
    return module


def _returning(value):
    def provider():
        if isinstance(value, BaseException):
            raise value
        return value

    return provider


def masker(*, size: int, tau: float = 0.5):
    """Finds everything."""
    return ("masker", size, tau)


def load(*entry_points, disabled=""):
    return load_plugins(entry_points, disabled)


def test_the_built_ins_come_through_the_same_hooks():
    plugins = load()
    assert {"maskcut", "tokencut"} <= {offer.name for offer in plugins.offers}
    assert all(row["help"] for row in plugins.table())
    assert not plugins.broken


def test_an_offer_is_built_with_checked_arguments():
    offer = load(EntryPoint("mine", plugin(u2seg_mask_generators={"all": masker}))).offer("mask generator", "all")
    assert offer.distribution == "package of mine"
    assert offer.build({"size": 3}) == ("masker", 3, 0.5)
    assert offer.build({"tau": 0.1}, {"size": 4, "device": "cpu"}) == ("masker", 4, 0.1)
    with pytest.raises(UsageError, match=r"unexpected keyword argument 'tua'. Did you mean 'tau'\?"):
        offer.build({"size": 1, "tua": 1})
    with pytest.raises(UsageError, match="missing a required argument: 'size'"):
        offer.build({})
    with pytest.raises(UsageError, match="config key of its own"):
        offer.build({"size": 1}, {"size": 2})


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(UsageError, match=r"no mask generator named 'maskut'. Did you mean 'maskcut'\?"):
        load().offer("mask generator", "maskut")


@pytest.mark.parametrize(
    "broken",
    [
        ImportError("no module named numpyy"),
        SyntaxError("bad"),
        plugin(u2seg_mask_generators=RuntimeError("boom")),
        plugin(u2seg_mask_generators=["not a dict"]),
        plugin(u2seg_mask_generatorz={"x": masker}),
    ],
    ids=["import", "syntax", "provider", "no dict", "misspelt hook"],
)
def test_a_broken_plugin_is_reported_and_the_others_work(broken):
    good = EntryPoint("good", plugin(u2seg_refiners={"mine": masker}))
    plugins = load(EntryPoint("bad", broken), good)
    assert [entry.name for entry in plugins.broken] == ["bad"]
    assert "U2SEG_DISABLE_PLUGINS=bad" in str(plugins.broken[0])
    assert plugins.offer("refiner", "mine").name == "mine"
    with pytest.raises(PluginError, match="bad"):
        plugins.offer("mask generator", "something of bad")
    again = load(EntryPoint("bad", broken), good, disabled="bad")
    assert not again.broken
    assert again.disabled == ["bad"]


def test_a_name_that_two_plugins_offer_is_an_error_for_those_who_ask_for_it():
    pair = [
        EntryPoint(name, plugin(u2seg_mask_generators={"same": masker, "maskcut": masker, name: masker}))
        for name in ("one", "two")
    ]
    plugins = load(*pair)
    assert plugins.offer("mask generator", "one").distribution == "package of one"
    with pytest.raises(PluginError, match=r"package of one and by package of two.*DISABLE_PLUGINS=one or two"):
        plugins.offer("mask generator", "same")
    with pytest.raises(PluginError, match="built in"):
        plugins.offer("mask generator", "maskcut")
    assert load(*pair, disabled="two").offer("mask generator", "same").distribution == "package of one"


class Distribution:
    def __init__(self, name):
        self.name, self.version = name, "1.0"


def entry_of(distribution, name, module):
    entry_point = EntryPoint(name, module)
    entry_point.dist = Distribution(distribution)
    return entry_point


def test_two_distributions_with_one_entry_point_name_both_live():
    called = []
    pair = []
    for distribution in ("first", "second"):
        module = plugin(u2seg_refiners={distribution: masker})
        module.u2seg_register_detectron2 = hookimpl(lambda who=distribution: called.append(who))
        pair.append(entry_of(distribution, "main", module))
    plugins = load(*pair)
    assert not plugins.broken
    assert {"first", "second"} <= {offer.name for offer in plugins.offers}
    plugins.call_each("u2seg_register_detectron2")
    assert called == ["first", "second"]
    assert set(plugins.third_parties()) == {"first:main", "second:main"}
    alone = load(*pair, disabled="first:main")
    assert alone.disabled == ["first:main"]
    assert alone.offer("refiner", "second")
    assert load(*pair, disabled="main").third_parties() == {}


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3)], ids=["exception", "sys.exit"])
@pytest.mark.parametrize("hook", ["u2seg_register_detectron2", "u2seg_add_config"])
def test_a_hook_that_fails_is_reported_and_stops_nobody_else(hook, error):
    called = []
    modules = {name: types.ModuleType(name) for name in ("a", "bad", "c")}
    for name, module in modules.items():
        setattr(module, hook, hookimpl((lambda n=name: called.append(n)) if name != "bad" else _returning(error)))
    modules["bad"].u2seg_refiners = hookimpl(lambda: {"mine": masker})
    plugins = load(*(EntryPoint(name, module) for name, module in modules.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "installed_plugins", lambda: plugins)
        for _ in range(2):  # a config is made again and again
            call = {"u2seg_add_config": registry.add_plugin_config}
            call.get(hook, lambda _: plugins.call_each(hook))({})
    assert called == ["a", "c"] * 2
    (broken,) = plugins.broken
    assert (broken.name, plugins.offer("refiner", "mine").plugin) == ("bad", "bad")
    assert hook in broken.reason
    assert type(error).__name__ in broken.reason
    assert "test_registry.py:" in broken.reason


def test_a_plugin_that_changes_keys_of_others_is_reported_and_they_are_put_back(monkeypatch):
    def add(cfg):
        cfg["SOLVER"].update(MINE=2.0, STEPS=(9,))
        del cfg["SEED"]
        cfg["MODEL"] = 3

    def extend(cfg):
        cfg["SOLVER"]["OTHER"] = {"WEIGHT": 1.0}

    modules = {"bad": types.ModuleType("bad"), "good": types.ModuleType("good")}
    for module, hook in zip(modules.values(), (add, extend), strict=True):
        module.u2seg_add_config = hookimpl(hook)
    plugins = load(*(EntryPoint(name, module) for name, module in modules.items()))
    monkeypatch.setattr(registry, "installed_plugins", lambda: plugins)
    for _ in range(2):
        cfg = {"SOLVER": {"STEPS": (1, 2)}, "SEED": -1, "MODEL": {"DEVICE": "cpu"}}
        registry.add_plugin_config(cfg)
        solver = {"STEPS": (1, 2), "MINE": 2.0, "OTHER": {"WEIGHT": 1.0}}
        assert cfg == {"SOLVER": solver, "SEED": -1, "MODEL": {"DEVICE": "cpu"}}
    (broken,) = plugins.broken
    assert broken.name == "bad"
    assert "u2seg_add_config changes SOLVER.STEPS, SEED, MODEL, not its own" in broken.reason


def test_a_plugin_that_calls_sys_exit_when_it_is_imported_is_reported():
    class Exits(EntryPoint):
        def load(self):
            raise SystemExit("no licence")

    plugins = load(Exits("exits", None), EntryPoint("good", plugin(u2seg_refiners={"mine": masker})))
    assert "SystemExit: no licence" in plugins.broken[0].reason
    assert plugins.offer("refiner", "mine")


def test_functions_that_only_look_like_hooks_are_named():
    module = plugin(u2seg_refiners={"mine": masker})
    module.u2seg_mask_generators = lambda: {"lost": masker}
    module.u2seg_stuff_segmenter = lambda: {}
    module.u2seg_version = "1.0"
    plugins = load(EntryPoint("half", module))
    reasons = sorted(broken.reason for broken in plugins.broken)
    assert reasons[0] == "there is no hook u2seg_stuff_segmenter. Did you mean 'u2seg_stuff_segmenters'?"
    assert reasons[1] == "u2seg_mask_generators is not called: @u2seg.hookimpl is missing above it"
    assert len(reasons) == 2
    assert plugins.offer("refiner", "mine")
    with pytest.raises(PluginError, match="hookimpl is missing"):
        plugins.offer("mask generator", "lost")


def test_disabling_what_nobody_has_says_so(caplog):
    load(EntryPoint("border_masks", plugin(u2seg_refiners={"mine": masker})), disabled="borders_mask")
    assert "no plugin named 'borders_mask'. Did you mean 'border_masks'?" in caplog.text


def test_a_name_that_a_disabled_plugin_may_have_says_so():
    plugins = load(EntryPoint("border_masks", plugin(u2seg_refiners={"mine": masker})), disabled="border_masks")
    for ask in (lambda: plugins.offer("refiner", "mine"), lambda: plugins.named("mine")):
        with pytest.raises(UsageError, match="U2SEG_DISABLE_PLUGINS leaves out: border_masks"):
            ask()


def test_what_is_wrong_is_said_once_for_all_workers(caplog, monkeypatch):
    monkeypatch.setenv("_U2SEG_WORKER_RANK", "1")
    assert load(EntryPoint("bad", ImportError("no"))).broken
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.parametrize(("version", "remedy"), [(CONTRACT_VERSION + 1, "update u2seg"), (0, "update the plugin")])
def test_a_plugin_for_another_contract_is_refused(version, remedy):
    module = plugin(u2seg_refiners={"mine": masker})
    module.U2SEG_CONTRACT = version
    plugins = load(EntryPoint("other", module))
    assert f"version {version} of u2seg's plugin contract" in plugins.broken[0].reason
    assert plugins.broken[0].reason.endswith(remedy)
    with pytest.raises(PluginError, match=remedy):
        plugins.offer("refiner", "mine")
    module.U2SEG_CONTRACT = CONTRACT_VERSION
    assert load(EntryPoint("this", module)).offer("refiner", "mine")


def test_a_third_party_may_be_called_as_the_built_ins():
    plugins = load(EntryPoint("builtin", plugin(u2seg_refiners={"mine": masker})))
    assert not plugins.broken
    assert plugins.offer("refiner", "mine")
    assert plugins.offer("refiner", "none")


def test_a_factory_that_fails_is_named():
    def careless(*, size=1):
        return [1, 2][size + 5]

    def exits():
        raise SystemExit(1)

    def refuses(*, size=1):
        raise UsageError(f"size {size} is odd")

    factories = {"careless": careless, "exits": exits, "refuses": refuses}
    plugins = load(EntryPoint("mine", plugin(u2seg_refiners=factories)))
    for name, text in (("careless", r"IndexError: .* \(\S*test_registry\.py:\d+\)"), ("exits", "SystemExit: 1")):
        with pytest.raises(PluginError, match=rf"refiner '{name}' of package of mine can't be built: {text}"):
            plugins.offer("refiner", name).build({})
    with pytest.raises(UsageError, match=r"^size 1 is odd$"):
        plugins.offer("refiner", "refuses").build({})


def test_what_is_to_be_checked_is_found_by_part_and_by_plugin():
    models = plugin()
    models.u2seg_register_detectron2 = hookimpl(lambda: None)
    half = plugin(u2seg_refiners={"half": masker})
    half.u2seg_clusterers = lambda: {}
    plugins = load(
        EntryPoint("mine", plugin(u2seg_refiners={"a": masker, "b": masker}, u2seg_clusterers={"a": masker})),
        EntryPoint("models", models),
        EntryPoint("broken", ImportError("no")),
        EntryPoint("half", half),
    )
    assert [(offer.kind, offer.name) for offer in plugins.named("a")] == [("refiner", "a"), ("clusterer", "a")]
    assert len(plugins.named("mine")) == 3
    same = load(EntryPoint("a", plugin(u2seg_refiners={"a": masker, "b": masker})))
    assert [offer.name for offer in same.named("a")] == ["a", "b"]
    with pytest.raises(UsageError, match="offers no part"):
        plugins.named("models")
    for name, text in (("broken", "ImportError: no"), ("half", "hookimpl is missing"), ("aa", "Did you mean 'a'")):
        with pytest.raises(PluginError, match=text):
            plugins.named(name)
