"""The checks find each broken rule, and let pass what keeps the contract."""

import numpy as np
import pytest
from plugin_parts import (
    CHANGES,
    FORM,
    GOOD,
    MEMBERS,
    VALUES,
    Clusterer,
    Extractor,
    Generator,
    Refiner,
    broken,
    changing,
    kind_of,
    spoiled,
)

from u2seg import MaskSet, UsageError
from u2seg.errors import PluginError
from u2seg.plugins.checks import CHECKS, check_offer
from u2seg.plugins.offers import Offer


@pytest.mark.parametrize("kind", GOOD)
def test_good_parts_pass(kind):
    CHECKS[kind](GOOD[kind]())


@pytest.mark.parametrize("case", [*FORM, *VALUES])
def test_results_that_break_a_rule_are_found(case):
    part, words = spoiled(case)
    with pytest.raises(AssertionError) as caught:
        CHECKS[kind_of(part)](part)
    assert words in str(caught.value)


@pytest.mark.parametrize("case", CHANGES)
def test_changed_inputs_are_found(case):
    part = changing(case)
    with pytest.raises(AssertionError, match="changes what it is given"):
        CHECKS[kind_of(part)](part)


@pytest.mark.parametrize("case", MEMBERS)
def test_missing_members_are_found(case):
    base, members, words = MEMBERS[case]
    part = broken(base, **members)
    with pytest.raises(AssertionError) as caught:
        CHECKS[kind_of(part)](part)
    assert words in str(caught.value)


class Restless(Generator):
    """Never gives the same twice."""

    def __init__(self):
        self.calls = 0

    def generate(self, image, features):
        self.calls += 1
        found = super().generate(image, features)
        return MaskSet(found.masks, np.float32([1 / self.calls]))


def dependent(self, images):
    """Features that depend on the other images of the call."""
    return [grid / len(images) for grid in Extractor.extract(self, images)]


def hasty(self, images, features):
    return [self.generate(images[0], features[0])] * (len(images) - 1)


def flipped(self, images, features):
    masks = [self.generate(*pair) for pair in zip(images, features, strict=True)]
    return [MaskSet(~found.masks, found.scores) for found in masks]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Restless(), "the same image, the same masks"),
        (broken(Extractor, extract=dependent), "the same features alone as with others"),
        (broken(Extractor, embed=lambda self, images: np.ones((1, 3), np.float32)), "embed gives float32 (2, E)"),
        (broken(Extractor, prepare=lambda self: None), "prepare gives a dict"),
        (broken(Generator, generate_batch=hasty), "a list of 2"),
        (broken(Generator, generate_batch=flipped), "generate_batch gives what generate gives"),
        (broken(Refiner, refine_many=lambda self, image, many: iter([])), "a result for each scores"),
        (broken(Clusterer, cluster_centers_=np.zeros((5, 8), np.float32)), "no cluster with a centre is empty"),
    ],
    ids=["determinism", "batch", "embed", "prepare", "short batch", "other batch", "short refine_many", "centres"],
)
def test_what_is_optional_is_checked_where_it_is_there(part, words):
    with pytest.raises(AssertionError) as caught:
        CHECKS[kind_of(part)](part)
    assert words in str(caught.value)


def offer(factory, kind="mask generator"):
    return Offer(kind, "mine", factory, "mine 1.0", "mine", __name__)


def test_an_offer_is_checked_as_a_whole():
    check_offer(offer(Generator), {}, {"device": "cpu"})
    check_offer(offer(Generator), {}, {}, Extractor())
    seeds = iter(range(9))

    class Unseeded(Generator):
        def __init__(self):
            self.side = 1 + next(seeds) % 2

        def generate(self, image, features):
            return MaskSet(np.ones((1, self.side, self.side), bool), np.ones(1, np.float32))

    def fails(self, image, features):
        raise KeyError("nothing")

    def refuses():
        raise UsageError("not today")

    for factory, words in (
        (Unseeded, "made again with the same arguments and seed"),
        (lambda: broken(Generator, generate=fails), r"KeyError: 'nothing' \(\S*test_checks\.py:\d+\)"),
        (lambda: spoiled("no masks")[0], "breaks its contract: generate gives a u2seg.MaskSet"),
    ):
        with pytest.raises(PluginError, match=rf"^mask generator 'mine' of mine 1\.0.*{words}"):
            check_offer(offer(factory), {}, {})
    with pytest.raises(UsageError, match="not today"):
        check_offer(offer(refuses), {}, {})
