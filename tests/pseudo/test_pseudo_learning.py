"""Which masks the clusters are learnt from."""

import numpy as np
import pytest

from u2seg.errors import DataError
from u2seg.pseudo import learning
from u2seg.pseudo.embeddings import MaskVectors
from u2seg.pseudo.intermediate import Intermediate, MaskRecord, write_masks
from u2seg.pseudo.learning import mean_centres, sample_masks
from u2seg.structures import MaskSet


@pytest.fixture
def masks(tmp_path):
    """Nine masks of four photos, one without any; the vector of mask number i is the i-th unit vector."""
    masks, vectors = Intermediate(tmp_path, "masks", "0" * 16), np.eye(9, dtype=np.float32)
    scores = np.float32([0.5, 0.1, 0.6, 0.2, 0.7, 0.8, 0.1, 0.9, 0.3])
    for photo, indices in enumerate(([0, 1], [], [2, 3, 4], [5, 6, 7, 8])):
        mask_set = MaskSet(np.ones((len(indices), 4, 4), bool), scores[indices])
        vectors_of_photo = MaskVectors(vectors[indices], np.arange(len(indices)), vectors[indices, :2])
        write_masks(masks.path(f"{photo:02}"), MaskRecord(mask_set, vectors_of_photo, (4, 4), {}))
    return masks


KEYS = ["00", "01", "02", "03"]


def numbers(sample):
    return sample.vectors.argmax(axis=1).tolist()


def test_they_are_those_of_enough_score(masks):
    assert numbers(sample_masks(masks, KEYS, 2, 0.5, seed=0)) == [0, 2, 4, 5, 7]
    assert numbers(sample_masks(masks, KEYS, 2, 0.0, seed=0)) == list(range(9))


def test_all_where_the_sure_ones_are_too_few(masks, caplog):
    assert numbers(sample_masks(masks, KEYS, 6, 0.5, seed=0)) == list(range(9))
    assert "only 5 reach" in caplog.text


def test_a_draw_where_there_are_many(masks, monkeypatch):
    monkeypatch.setattr(learning, "MOST_PER_CLUSTER", 2)
    drawn = numbers(sample_masks(masks, KEYS, 2, 0.5, seed=0))
    assert len(drawn) == 4
    assert set(drawn) < {0, 2, 4, 5, 7}
    assert drawn == sorted(drawn) == numbers(sample_masks(masks, KEYS, 2, 0.5, seed=0))
    assert len({tuple(numbers(sample_masks(masks, KEYS, 2, 0.5, seed))) for seed in range(20)}) > 1


def test_no_masks_are_said(masks):
    with pytest.raises(DataError, match="no masks"):
        sample_masks(masks, ["01"], 2, 0.0, seed=0)


def test_only_masks_with_a_vector_are_drawn_and_their_means_come_along(tmp_path):
    masks, vectors = Intermediate(tmp_path, "masks", "0" * 16), np.eye(9, dtype=np.float32)
    scores = np.float32([0.2, 0.9, 0.1, 0.8])
    means = np.arange(8, dtype=np.float32).reshape(4, 2)
    mask_set = MaskSet(np.ones((4, 4, 4), bool), scores)
    record = MaskRecord(mask_set, MaskVectors(vectors[[5, 6, 7]], np.array([0, 1, 3]), means), (4, 4), {})
    write_masks(masks.path("00"), record)
    sample = sample_masks(masks, ["00"], 2, 0.5, seed=0)
    assert numbers(sample) == [6, 7]
    assert np.array_equal(sample.means, means[[1, 3]])


def test_centres_of_means_are_unit_means_of_each_cluster():
    centres = mean_centres(np.float32([[2, 0], [0, 2], [0, 4]]), np.array([0, 0, 2]), 3)
    assert np.allclose(centres, [[0.5**0.5, 0.5**0.5], [0, 0], [0, 1]])
