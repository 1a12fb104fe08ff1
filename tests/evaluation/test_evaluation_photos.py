"""On human-labelled COCO photos: read as files, against panopticapi."""

import json

import numpy as np
import pytest
from evaluation_data import Labels, permuted, write_pseudo

from u2seg.evaluation.labels import LabelPaths, evaluate_labels
from u2seg.evaluation.matching import Scoring
from u2seg.panoptic import read_ids

pytestmark = pytest.mark.data
PHOTOS = 25


@pytest.fixture(scope="module")
def human(labelled_photos, tmp_path_factory):
    """Some photos' human labels in memory, and their paths but for the pseudo labels."""
    content = json.loads((labelled_photos / "panoptic.json").read_bytes())
    content["annotations"] = content["annotations"][:PHOTOS]
    file = tmp_path_factory.mktemp("human") / "panoptic.json"
    file.write_text(json.dumps(content))
    labels = Labels(content["categories"])
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        labels.maps.append(read_ids(labelled_photos / "panoptic" / annotation["file_name"]))
        labels.infos.append(annotation["segments_info"])
        labels.names.append(names[annotation["image_id"]])
    return labels, file, labelled_photos / "panoptic"


def test_permuted_human_labels_score_100_everywhere(human, tmp_path):
    labels, gt, gt_dir = human
    pseudo = write_pseudo(permuted(labels, np.random.default_rng(0)), tmp_path / "pseudo", instances=True)
    report = evaluate_labels(LabelPaths(pseudo, gt, gt_dir), Scoring(stuff="category", seeds=2))
    assert report["photos"]["scored"] == PHOTOS
    assert report["class_agnostic"]["mask"]["AP"] == pytest.approx(100)
    assert report["class_agnostic"]["box"]["AR@100"] == pytest.approx(100)
    assert report["class_agnostic"]["one_class"]["PQ_th"] == pytest.approx(100)
    for scores in report["policies"]:
        assert list(scores["figures"].values()) == pytest.approx([100] * len(scores["figures"]))
        assert scores["control_mean"]["PQ"] < 40


def test_moved_human_labels_equal_panopticapi(human, tmp_path, capsys):
    from panopticapi.evaluation import pq_compute

    labels, gt, gt_dir = human
    rng = np.random.default_rng(1)
    moved = Labels(labels.categories)
    for ids, info, name in zip(labels.maps, labels.infos, labels.names, strict=True):
        ids = np.roll(ids, rng.integers(-9, 10, 2), (0, 1))
        moved.add(ids, [{key: s[key] for key in ("id", "category_id")} for s in info], name)
    pseudo = write_pseudo(moved, tmp_path / "pseudo")
    scoring = Scoring(["one_to_one"], stuff="category", seeds=0)
    report = evaluate_labels(LabelPaths(pseudo, gt, gt_dir), scoring, save=tmp_path / "m.json")
    matching = json.loads((tmp_path / "m.json").read_text())
    names = {entry["id"]: entry["name"] for entry in labels.categories}
    of_name = {entry["name"]: entry["id"] for entry in labels.categories}
    renamed = {
        int(cluster): of_name[matching["classes"][index]["name"]]
        for cluster, index in matching["policies"]["one_to_one"]["class_of_cluster"].items()
        if index is not None
    }
    by_hand = json.loads((pseudo / "panoptic.json").read_text())
    human_ids = {image["file_name"]: image["id"] for image in json.loads(gt.read_bytes())["images"]}
    for image, annotation in zip(by_hand["images"], by_hand["annotations"], strict=True):
        annotation["image_id"] = human_ids[image["file_name"]]
        for segment in annotation["segments_info"]:
            segment["category_id"] = renamed[segment["category_id"]]
    assert sum(names[a] == names[b] for a, b in renamed.items()) > 20
    (tmp_path / "moved.json").write_text(json.dumps(by_hand))
    expected = pq_compute(str(gt), str(tmp_path / "moved.json"), str(gt_dir), str(pseudo / "panoptic"))
    capsys.readouterr()
    figures = report["policies"][0]["figures"]
    assert 20 < figures["PQ"] < 95
    for suffix, key in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for name in ("pq", "sq", "rq"):
            assert figures[f"{name.upper()}{suffix}"] == pytest.approx(100 * expected[key][name], rel=0, abs=1e-9)
