"""MaskCut beside the literal method, the cases that the papers leave open, and what masks must not depend on."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_scenes import patches, scene

from u2seg.errors import DataError, UsageError
from u2seg.plugins.checks import check_mask_generator, check_picklable
from u2seg.pseudo.masks import maskcut
from u2seg.pseudo.masks.maskcut import MaskCut, components, foreground, seed_component, tokencut
from u2seg.pseudo.masks.scoring import contrast, inner_outline, mask_scores


def assert_same(found, wanted, literal):
    assert len(found) == len(wanted)
    assert all(literal.iou(one, other) >= 0.999 for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("options", [{}, {"keep_painted": True, "tolerance": 1e-9}])
@pytest.mark.parametrize("tau", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_scenes_give_the_literal_masks(seed, tau, options, literal):
    features = scene(seed)
    wanted = literal.maskcut(features, tau=tau, keep_painted=options.get("keep_painted", False))
    assert_same(MaskCut(tau=tau, **options).generate(None, features).masks, wanted, literal)


@pytest.mark.parametrize("tau", [0.0, 0.15, 0.3])
def test_photos_give_the_literal_masks(tau, photos, literal):
    for photo in photos.values():
        features = patches(photo)
        assert_same(MaskCut(tau=tau).generate(photo, features).masks, literal.maskcut(features, tau=tau), literal)


def test_tokencut_is_one_literal_round_without_the_corner_rule(literal):
    for seed in range(4):
        features = scene(seed)
        wanted = literal.maskcut(features, tau=0.2, num_masks=1, max_corners=4)
        assert_same(tokencut().generate(None, features).masks, wanted, literal)


@pytest.mark.parametrize("generator", [MaskCut(), MaskCut(split_components=True, num_masks=8), tokencut()])
def test_contract(generator):
    check_mask_generator(generator)
    check_picklable(generator)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.7), st.booleans())
def test_masks_are_disjoint_connected_and_of_the_asked_size(seed, tau, split):
    cutter = MaskCut(tau=tau, num_masks=5, split_components=split)
    found = cutter.generate(None, scene(seed, 14, 16))
    assert (found.masks.sum(axis=0) <= 1).all()
    for mask in found.masks:
        assert len(components(mask, 1)) == 1
    assert all(mask.mean() > 0.01 for mask in found.masks[1:])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_feature_scale_does_not_matter(seed, scale):
    features = scene(seed, 14, 16)
    cells = np.random.default_rng(seed).uniform(0.5, 2, features.shape[1:]).astype(np.float32)
    one, other = MaskCut().generate(None, features), MaskCut().generate(None, features * cells * np.float32(scale))
    assert np.array_equal(one.masks, other.masks)
    assert np.allclose(one.scores, other.scores, atol=1e-4)


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_photo_gives_flipped_masks(seed, axes):
    features = scene(seed, 14, 16, noise=0.6)  # noisy: where peaks tie, the first is taken, and a flip changes which
    one = MaskCut().generate(None, features).masks
    other = MaskCut().generate(None, np.ascontiguousarray(np.flip(features, axes))).masks
    assert np.array_equal(np.flip(one, axes), other)


def test_neighbours_in_a_batch_do_not_matter():
    features = [scene(seed, 14 + seed % 2, 16) for seed in range(4)]
    batch = MaskCut().generate_batch([None] * 4, features)
    for found, grid in zip(batch, features, strict=True):
        assert np.array_equal(found.masks, MaskCut().generate(None, grid).masks)


def test_the_shared_products_of_a_gpu_give_the_same_masks(monkeypatch):
    features = [scene(seed, 14, 16, noise=0.1 + 0.2 * seed) for seed in range(5)] + [np.ones((24, 14, 16), np.float32)]
    cutter = MaskCut(tau=0.4, num_masks=6)
    one_by_one = cutter.generate_batch([None] * 6, features)
    monkeypatch.setattr(maskcut, "alike", lambda features, one_by_one: [[0, 2], [1, 3, 4, 5]])
    batch = cutter.generate_batch([None] * 6, features)
    assert len({len(found) for found in batch}) > 1, "some photos are over before others, or this shows nothing"
    for found, single in zip(batch, one_by_one, strict=True):
        assert np.array_equal(found.masks, single.masks)


def test_photos_of_one_size_share_as_much_memory_as_there_is(monkeypatch):
    features = [np.zeros((2, 3, 4 + place % 2), np.float32) for place in range(6)]
    assert list(maskcut.alike(features, one_by_one=False)) == [[0, 2, 4], [1, 3, 5]]
    monkeypatch.setattr(maskcut, "BATCH_BYTES", 2 * 4 * 12**2)
    assert list(maskcut.alike(features, one_by_one=False)) == [[0, 2], [4], [1], [3], [5]]


def test_features_without_structure_give_no_mask():
    assert len(MaskCut().generate(None, np.ones((8, 10, 12), np.float32))) == 0
    assert len(MaskCut().generate(None, np.zeros((8, 1, 1), np.float32))) == 0


def test_an_empty_round_ends_the_search():
    features = scene(0, blobs=1, noise=0.0)
    found = MaskCut(num_masks=50).generate(None, features)
    assert 1 <= len(found) <= 2


@pytest.mark.parametrize("bad", [np.ones((4, 5), np.float32), np.full((4, 5, 6), np.nan, np.float32)])
def test_bad_features_are_refused(bad):
    with pytest.raises(DataError, match="not a finite"):
        MaskCut().generate(None, bad)


@pytest.mark.parametrize("bad", [{"tau": 2}, {"num_masks": 0}, {"eps": 0}, {"tau": "0.3"}, {"max_corners": 5}])
def test_constants_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        MaskCut(**bad)


def test_an_unknown_device_is_refused():
    with pytest.raises(UsageError, match="nonsense"):
        MaskCut(device="nonsense").generate(None, scene(0))


def test_the_sign_of_the_eigenvector_does_not_matter():
    rng = np.random.default_rng(0)
    for corners in (0, 2, 4):
        vector, active = rng.normal(size=(6, 7)), rng.random((6, 7)) > 0.2
        (one, seed), (other, again) = (foreground(v, active, corners) for v in (vector, -vector))
        assert np.array_equal(one, other)
        assert seed == again
        assert one[seed]
        assert not (one & ~active).any()


def test_tied_peaks_give_the_first():
    vector = np.zeros((3, 4))
    vector[1, 1], vector[2, 2] = 1.0, 1.0005
    assert foreground(vector, np.ones((3, 4), bool), 2)[1] == (1, 1)


def test_the_corner_rule_turns_the_foreground_over():
    vector = np.full((5, 5), 1.0)
    vector[1:4, 1:4] = -0.2
    vector[2, 2] = -0.3
    active = np.ones((5, 5), bool)
    side, seed = foreground(vector, active, 2)
    assert side.sum() == 9
    assert seed == (2, 2)
    assert foreground(vector, active, 4)[0].sum() == 16


def test_components_are_joined_by_edges_not_corners():
    side = np.eye(3, dtype=bool)
    side[0, 1] = True
    assert seed_component(side, (0, 0)).sum() == 3
    assert [part.sum() for part in components(side, 1)] == [3, 1]
    assert [part.sum() for part in components(side, 2)] == [3]


def test_splitting_adds_the_other_components():
    features = scene(5, blobs=4, noise=0.1)
    one, all_parts = (MaskCut(num_masks=1, tau=0.4, split_components=s).generate(None, features) for s in (False, True))
    assert np.array_equal(one.masks[0], all_parts.masks[0])
    assert len(all_parts) >= len(one)


def test_scores_rank_a_clear_inner_thing_over_noise_and_over_the_border():
    features = np.zeros((3, 12, 12), np.float32)
    features[0] = 1
    features[:2, 4:8, 4:8] = np.array([-1, 1])[:, None, None]
    masks = np.zeros((4, 12, 12), bool)
    clear, nothing, edge, whole = masks
    clear[4:8, 4:8] = nothing[4:8, 0:3] = edge[:3, :3] = whole[:] = True
    scores = mask_scores(masks, features)
    assert scores.dtype == np.float32
    assert scores[0] > scores[1:].max()
    assert inner_outline(masks).tolist() == pytest.approx([1, 10 / 14, 0.5, 0])
    assert contrast(masks, features)[[1, 3]].tolist() == pytest.approx([0, 0], abs=0.01)


def test_pickle_keeps_every_constant():
    cutter = MaskCut(tau=0.3, num_masks=7, split_components=True)
    assert vars(pickle.loads(pickle.dumps(cutter))) == vars(cutter)
