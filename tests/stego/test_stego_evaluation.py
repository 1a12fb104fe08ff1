"""Scores and matching on small sets whose figures are known."""

import json

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import DataError
from u2seg.evaluation.matching import Taxonomy
from u2seg.panoptic import read_panoptic
from u2seg.stego.evaluation import SUPERCATEGORIES, cluster_scores, count_overlap, read_classes, score_segmenter

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)


@pytest.fixture
def dataset(tmp_path):
    """Four photos in three colours, each colour a supercategory; left column void."""
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
    return read_panoptic(tmp_path)


class Colours:
    """An extractor, a stuff segmenter that finds the colours under permuted ids, and a refiner."""

    num_classes = 3

    def extract(self, images):
        return [image.transpose(2, 0, 1).astype(np.float32) for image in images]

    def segment(self, image, features):
        distance = np.abs(image[:, :, None].astype(int) - COLOURS[[2, 0, 1]]).sum(axis=3)
        return distance.argmin(axis=2).astype(np.uint8)


def test_permuted_truth_scores_100(dataset):
    scores = score_segmenter(Colours(), Colours(), None, dataset)
    assert scores == dict.fromkeys(scores, 100.0)
    assert set(scores) == {
        "pixel_accuracy_fit_on_set",
        "miou_fit_on_set",
        "pixel_accuracy_fit_on_half",
        "miou_fit_on_half",
    }


def test_void_pixels_do_not_count(dataset):
    truth = read_classes(dataset, dataset.photos[0], Taxonomy.of(dataset, *SUPERCATEGORIES))
    assert (truth == 255).sum() == 16
    table = count_overlap(np.zeros((16, 24), np.uint8), truth, 3, 3)
    assert table.sum() == 16 * 23
    nothing = count_overlap(np.full((16, 24), 255, np.uint8), truth, 3, 3)
    assert nothing[:3].sum() == 0
    assert nothing[3].sum() == 16 * 23


def test_categories_without_supercategory_are_told(dataset, tmp_path):
    content = json.loads((tmp_path / "panoptic.json").read_text())
    del content["categories"][0]["supercategory"]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="category 'c0' has no supercategory"):
        score_segmenter(Colours(), Colours(), None, read_panoptic(tmp_path))


def test_scores_are_those_of_an_obvious_count():
    tables = np.array([[[6, 1], [2, 3], [0, 0]], [[1, 0], [0, 2], [1, 1]]])
    scores = cluster_scores(tables)
    # cluster 0 -> class 0: 7 right of 10; cluster 1 -> class 1: 5 right of 7
    assert scores["pixel_accuracy_fit_on_set"] == pytest.approx(100 * 12 / 17)
    iou = [7 / (10 + 8 - 7), 5 / (7 + 7 - 5)]
    assert scores["miou_fit_on_set"] == pytest.approx(100 * np.mean(iou))


def test_one_photo_has_no_halves():
    assert set(cluster_scores(np.ones((1, 3, 2), int))) == {"pixel_accuracy_fit_on_set", "miou_fit_on_set"}
