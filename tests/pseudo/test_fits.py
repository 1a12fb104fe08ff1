import numpy as np
import pytest

from u2seg.pseudo.fits import cluster_masks


def settings(**clusters):
    node = {"NAME": "kmeans", "ARGS": {}, "REUSE": "", "MIN_SCORE": 0.0, **clusters}
    return {"NUM_THINGS": 2, "SEED": 0, "CLUSTERS": node, "EXECUTOR": {"THREADS": 1}}


@pytest.fixture
def masks():
    """Two groups of sure masks, and a third of unsure ones far away."""
    rng = np.random.default_rng(0)
    axes = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    scores = np.repeat(np.float32([0.5, 0.4, 0.1]), 20)
    return axes + rng.normal(0, 0.02, axes.shape).astype(np.float32), scores


def test_clusters_are_learnt_from_masks_of_enough_score_and_given_to_all(masks):
    state, ids = cluster_masks(settings(MIN_SCORE=0.3), *masks)
    assert state["cluster_centers"][:, 2] == pytest.approx([0, 0], abs=0.05)
    assert len(ids) == 60
    assert len(set(ids[:20].tolist())) == len(set(ids[20:40].tolist())) == 1
    assert ids[0] != ids[20]


def test_without_a_lowest_score_all_masks_count(masks):
    state, _ = cluster_masks(settings(), *masks)
    assert state["cluster_centers"][:, 2].max() > 0.4


def test_too_few_sure_masks_are_told_and_all_are_used(masks, monkeypatch):
    told = []
    monkeypatch.setattr("u2seg.pseudo.fits.logger.warning", lambda message, *values: told.append(message % values))
    state, _ = cluster_masks(settings(MIN_SCORE=0.9), *masks)
    assert len(told) == 1
    assert "learnt from all 60 masks, since only 0 reach U2SEG.CLUSTERS.MIN_SCORE 0.9" in told[0]
    assert np.array_equal(state["cluster_centers"], cluster_masks(settings(), *masks)[0]["cluster_centers"])
