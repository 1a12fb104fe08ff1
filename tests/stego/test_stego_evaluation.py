"""Probes and matching on small sets whose figures are known."""

import json

import numpy as np
import pytest
from PIL import Image

from u2seg.modeling.stego_evaluation import (
    LabelledPhotos,
    cluster_scores,
    count_overlap,
    grid_truth,
    linear_probe_scores,
    overlap_tables,
    read_labelled,
)

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)


@pytest.fixture
def dataset(tmp_path):
    """Four photos in three colours, each colour a supercategory; left column void."""
    from u2seg.data.datasets import register_pseudo_dataset

    (tmp_path / "images").mkdir()
    (tmp_path / "panoptic").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(4):
        kind = np.repeat(np.repeat(rng.permutation(np.arange(6) % 3).reshape(2, 3), 8, 0), 8, 1)
        Image.fromarray(COLOURS[kind]).save(tmp_path / "images" / f"{index}.png")
        ids = (kind + 1).astype(np.uint8)
        ids[:, 0] = 0
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(tmp_path / "panoptic" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": 16, "width": 24})
        segments = [
            {"id": k + 1, "category_id": k + 1, "area": int((ids == k + 1).sum()), "iscrowd": 0, "bbox": [0, 0, 1, 1]}
            for k in range(3)
        ]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    categories = [{"id": k + 1, "name": f"c{k}", "supercategory": f"s{k}", "isthing": int(k == 0)} for k in range(3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    return read_labelled(register_pseudo_dataset(tmp_path))


def nearest_colour(image, order=(2, 0, 1)):
    distance = np.abs(image[:, :, None].astype(int) - COLOURS[list(order)]).sum(axis=3)
    return distance.argmin(axis=2).astype(np.uint8)


def test_permuted_truth_scores_100(dataset):
    tables = overlap_tables(dataset, 3, nearest_colour)
    scores = cluster_scores(tables)
    assert scores == dict.fromkeys(scores, 100.0)
    assert set(scores) == {
        "pixel_accuracy_fit_on_set",
        "miou_fit_on_set",
        "pixel_accuracy_fit_on_half",
        "miou_fit_on_half",
    }


def test_void_pixels_do_not_count(dataset):
    assert (dataset.truth(0) == 255).sum() == 16
    table = count_overlap(np.zeros((16, 24), np.uint8), dataset.truth(0), 3, 3)
    assert table.sum() == 16 * 23
    nothing = count_overlap(np.full((16, 24), 255, np.uint8), dataset.truth(0), 3, 3)
    assert nothing[:3].sum() == 0
    assert nothing[3].sum() == 16 * 23


def test_scores_are_those_of_an_obvious_count():
    tables = np.array([[[6, 1], [2, 3], [0, 0]], [[1, 0], [0, 2], [1, 1]]])
    scores = cluster_scores(tables)
    # cluster 0 -> class 0: 7 right of 10; cluster 1 -> class 1: 5 right of 7
    assert scores["pixel_accuracy_fit_on_set"] == pytest.approx(100 * 12 / 17)
    iou = [7 / (10 + 8 - 7), 5 / (7 + 7 - 5)]
    assert scores["miou_fit_on_set"] == pytest.approx(100 * np.mean(iou))


def test_one_photo_has_no_halves():
    assert set(cluster_scores(np.ones((1, 3, 2), int))) == {"pixel_accuracy_fit_on_set", "miou_fit_on_set"}


def test_a_linear_probe_of_colours_is_perfect_and_one_of_noise_is_not(dataset):
    def codes(image):
        return np.asarray(Image.fromarray(image).resize((6, 4), Image.Resampling.NEAREST), np.float32).transpose(
            2, 0, 1
        )

    photos = [np.asarray(Image.open(path)) for path, _ in dataset.photos]
    good = linear_probe_scores([codes(photo) for photo in photos], dataset)
    noise = np.random.default_rng(0).normal(size=(4, 3, 4, 6)).astype(np.float32)
    bad = linear_probe_scores(list(noise), dataset)
    assert good["pixel_accuracy"] > 85 > 60 > bad["pixel_accuracy"]
    assert np.isfinite(list(bad.values())).all()


def test_a_linear_probe_needs_two_photos(dataset):
    alone = LabelledPhotos(dataset.names, dataset.photos[:1], dataset.taxonomy)
    assert linear_probe_scores([np.zeros((3, 4, 6), np.float32)], alone) == {}


def test_the_truth_of_a_cell_is_that_of_its_middle():
    truth = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert grid_truth(truth, 2, 2).tolist() == [[5, 7], [13, 15]]
