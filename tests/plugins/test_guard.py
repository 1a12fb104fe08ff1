"""What a part raises is named, and what it gives is checked, whoever calls it."""

import os
import pickle
import re

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
    Segmenter,
    broken,
    changing,
    kind_of,
    spoiled,
)

from u2seg.errors import DataError, PluginError, UsageError
from u2seg.plugins.checks import CHECKS, sample_features, sample_image
from u2seg.plugins.guard import MOST_REFUSED, GuardedPart

IMAGE, FEATURES = sample_image(16, 24), sample_features(3, 4, 6)
SCORES = np.stack([1 - FEATURES[0], FEATURES[0]]).clip(0, 1)
CALLS = {
    "extract": lambda part: part.extract([IMAGE.copy()]),
    "generate": lambda part: part.generate(IMAGE.copy(), FEATURES.copy()),
    "refine": lambda part: part.refine(IMAGE.copy(), SCORES.copy()),
    "fit": lambda part: part.fit(np.ones((4, 3), np.float32)),
    "predict": lambda part: part.predict(np.float32([[1], [-1]])),
    "segment": lambda part: part.segment(IMAGE.copy(), FEATURES.copy()),
    "state": lambda part: part.fit(iter([FEATURES])).state(),
}


def guard(part, **more):
    return GuardedPart(kind_of(part), part, f"{kind_of(part)} 'mine' of mine 1.0", {"test_guard"}, **more)


@pytest.mark.parametrize("kind", GOOD)
def test_a_guarded_part_stands_for_the_part(kind):
    guarded = guard(GOOD[kind]())
    CHECKS[kind](guarded)
    assert not hasattr(guarded, "generate_batch")
    assert isinstance(pickle.loads(pickle.dumps(guarded)), GuardedPart)


@pytest.mark.parametrize("case", FORM)
def test_a_wrong_form_ends_the_run_at_once(case):
    part, words = spoiled(case)
    with pytest.raises(PluginError) as caught:
        CALLS[FORM[case][1]](guard(part))
    assert str(caught.value).startswith(f"{kind_of(part)} 'mine' of mine 1.0 breaks its contract: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("case", CHANGES)
def test_a_part_that_changes_what_it_is_given_ends_the_run(case):
    with pytest.raises(PluginError, match="changes what it is given"):
        CALLS[CHANGES[case][1]](guard(changing(case)))


@pytest.mark.parametrize("case", MEMBERS)
def test_what_is_missing_is_found_before_any_work(case):
    base, members, words = MEMBERS[case]
    with pytest.raises(PluginError) as caught:
        guard(broken(base, **members))
    assert words in str(caught.value)


@pytest.mark.parametrize("case", VALUES)
def test_bad_values_cost_the_photo_and_then_the_run(case):
    part, words = spoiled(case)
    call, guarded = CALLS[VALUES[case][1]], guard(part)
    for kind in [DataError] * (MOST_REFUSED - 1) + [PluginError]:
        with pytest.raises(kind) as caught:
            call(guarded)
        assert words in str(caught.value)


def test_bad_values_of_a_part_that_gives_good_ones_cost_the_photo_alone():
    class Fickle(Segmenter):
        bad = False

        def segment(self, image, features):
            return super().segment(image, features) * (np.nan if self.bad else 1)

    part = Fickle()
    guarded = guard(part)
    CALLS["segment"](guarded)
    part.bad = True
    for _ in range(2 * MOST_REFUSED):
        with pytest.raises(DataError, match="NaN"):
            CALLS["segment"](guarded)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("too  dark"), DataError, "ValueError: too dark"),
        (SystemExit(3), DataError, "SystemExit: 3"),
        (DataError("a mask is empty"), DataError, "DataError: a mask is empty"),
        (FileNotFoundError(2, "No such file", "w.pth"), PluginError, "FileNotFoundError: .*w.pth'"),
    ],
    ids=["error", "exit", "data", "file"],
)
def test_an_error_names_part_distribution_file_and_line(error, kind, text):
    def fail(self, image, features):
        os.fspath("")  # the last frame of the plugin is meant, not the last of all
        raise error

    with pytest.raises(kind) as caught:
        CALLS["generate"](guard(broken(Generator, generate=fail)))
    line = fail.__code__.co_firstlineno + 2
    assert re.fullmatch(rf"mask generator 'mine' of mine 1\.0: {text} \(\S*test_guard\.py:{line}\)", str(caught.value))


def test_the_line_named_is_the_plugins_own():
    def fail(self, image, features):
        return np.stack([np.ones(2), np.ones(3)])

    with pytest.raises(DataError, match=rf"test_guard\.py:{fail.__code__.co_firstlineno + 1}\)$"):
        CALLS["generate"](guard(broken(Generator, generate=fail)))


@pytest.mark.parametrize("error", [UsageError("lower it"), PluginError("other"), KeyboardInterrupt(), MemoryError()])
def test_errors_that_a_run_understands_stay_as_they_are(error):
    def fail(self, image, features):
        raise error

    with pytest.raises(type(error)) as caught:
        CALLS["generate"](guard(broken(Generator, generate=fail)))
    assert caught.value is error


def test_the_built_in_parts_say_what_they_always_said():
    error = DataError("7 channels")
    part = broken(Generator, generate=lambda self, image, features: exec("raise error", {"error": error}))
    with pytest.raises(DataError) as caught:
        CALLS["generate"](guard(part, built_in=True))
    assert caught.value is error


def test_an_error_of_what_a_part_reads_from_is_not_its_own():
    error = DataError("photo 3 is damaged")

    def features():
        yield FEATURES
        raise error

    with pytest.raises(DataError) as caught:
        guard(Segmenter()).fit(features())
    assert caught.value is error


def test_refine_many_is_checked_one_by_one():
    def lazily(self, image, many):
        return (self.refine(image, scores) for scores in many)

    many = [SCORES, SCORES[[0, 1, 1]]]
    refined = list(guard(broken(Refiner, refine_many=lazily)).refine_many(IMAGE, iter(many)))
    assert [array.shape for array in refined] == [(2, 16, 24), (3, 16, 24)]
    for wrong, words in (
        (lambda self, image, many: (self.refine(image, s)[:, 1:] for s in many), "refined scores"),
        (lambda self, image, many: [self.refine(image, s) for s in many][1:], "some are missing|float32"),
        (lambda self, image, many: [self.refine(image, s) for s in many] * 2, "a result for each"),
        (lambda self, image, many: [self.refine(image, next(many))], "some are missing"),
    ):
        with pytest.raises(PluginError, match=words):
            list(guard(broken(Refiner, refine_many=wrong)).refine_many(IMAGE, iter(many)))


def test_extractors_know_each_other_through_their_guards():
    class Shares(Extractor):
        def shares_pass(self, other):
            return isinstance(other, Shares)

        def extract_with(self, images, others):
            return [self.extract(images) for _ in (self, *others)]

    one, other = guard(Shares()), guard(Shares())
    assert one.shares_pass(other)
    assert len(one.extract_with([IMAGE], [other])) == 2
    assert not one.shares_pass(guard(Extractor()))


def test_a_clusterer_needs_no_centres():
    assert guard(Clusterer()).fit(FEATURES[:, :, 0]).predict(FEATURES[:, :, 0]).dtype == np.int64


def test_no_part_is_asked_about_nothing():
    assert guard(broken(Extractor, embed=lambda self, images: np.stack(images))).embed([]).size == 0

    def refuses(self, X):
        raise ValueError("Found array with 0 sample(s)")

    assert guard(broken(Clusterer, predict=refuses)).predict(np.zeros((0, 3), np.float32)).dtype == np.int64


def test_none_takes_an_optional_method_away():
    guarded = guard(broken(Generator, generate_batch=None))
    assert not hasattr(guarded, "generate_batch")
    assert not hasattr(guard(broken(Refiner, refine_many=None)), "refine_many")
