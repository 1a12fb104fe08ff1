"""Plugins of third parties: found, checked, reported; never in the way of the others."""

import types

import pytest

from u2seg.errors import PluginError, UsageError
from u2seg.plugins.api import hookimpl
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
        if isinstance(value, Exception):
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
    assert {"maskcut", "tokencut"} <= plugins.offers["mask generator"].keys()
    assert all(row["help"] for row in plugins.table())
    assert not plugins.broken


def test_an_offer_is_built_with_checked_arguments():
    offer = load(EntryPoint("mine", plugin(u2seg_mask_generators={"all": masker}))).offer("mask generator", "all")
    assert offer.distribution == "package of mine"
    assert offer.build({"size": 3}) == ("masker", 3, 0.5)
    assert offer.build({"tau": 0.1}, {"size": 4, "device": "cpu"}) == ("masker", 4, 0.1)
    with pytest.raises(UsageError, match=r"no argument 'tua'. Did you mean 'tau'\?"):
        offer.build({"size": 1, "tua": 1})
    with pytest.raises(UsageError, match="needs the argument size"):
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


def test_two_plugins_with_one_name_are_an_error_that_names_both():
    pair = [EntryPoint(name, plugin(u2seg_mask_generators={"same": masker})) for name in ("one", "two")]
    with pytest.raises(PluginError, match=r"package of one.*package of two"):
        load(*pair)
    with pytest.raises(PluginError, match="built in"):
        load(EntryPoint("one", plugin(u2seg_mask_generators={"maskcut": masker})))
