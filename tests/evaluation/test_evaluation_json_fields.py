"""What a JSON says of a mask beside the mask itself is redundant, and must not change a figure."""

import json

import numpy as np
import pytest
from evaluation_data import permuted, random_truth, write_pseudo
from evaluation_model import evaluator, model_outputs

from u2seg.errors import DataError
from u2seg.evaluation.labels import LabelPaths, evaluate_labels
from u2seg.evaluation.matching import RULES, Scoring
from u2seg.structures import LabelSpace


def without(*names):
    return lambda segment: [segment.pop(name) for name in names]


def stale(factor):
    return lambda segment: segment.update(area=int(segment["area"] * factor), bbox=[0, 0, 1, 1])


EDITS = {
    "no bbox": without("bbox"),
    "no area": without("area"),
    "neither": without("area", "bbox"),
    "null": lambda segment: segment.update(area=None, bbox=None),
    "too small": stale(0.1),
    "too large": stale(10),
}


def edit(file, change):
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        for segment in annotation.get("segments_info", [annotation]):
            change(segment)
    file.write_text(json.dumps(content))


@pytest.fixture(params=EDITS, ids=lambda name: name.replace(" ", "_"))
def edited(request, tmp_path):
    """Human labels on disk whose JSON says nothing, or nothing true, of areas and boxes."""
    truth = random_truth(np.random.default_rng(4), photos=8)
    truth.write(tmp_path / "gt.json", tmp_path / "gt")
    edit(tmp_path / "gt.json", EDITS[request.param])
    return truth, EDITS[request.param]


def check_what_is_said(caplog, file, change):
    said = any(f"{file}: 'area' or 'bbox' of " in record.message for record in caplog.records)
    assert said == (change in (EDITS["too small"], EDITS["too large"])), caplog.text


def test_a_perfect_model_scores_100(edited, tmp_path, caplog):
    space = LabelSpace(4, 4)
    run = evaluator(tmp_path, space, seeds=0)
    run.process(*model_outputs(permuted(edited[0], np.random.default_rng(0)), space))
    results = run.evaluate()
    for policy in RULES:
        assert list(results[policy].values()) == pytest.approx([100] * len(results[policy])), policy
    assert results["class_agnostic"]["AP_box"] == pytest.approx(100)
    check_what_is_said(caplog, "gt.json", edited[1])


def test_perfect_labels_score_100(edited, tmp_path, caplog):
    truth, change = edited
    write_pseudo(permuted(truth, np.random.default_rng(0)), tmp_path / "pseudo", instances=True)
    for name in ("panoptic.json", "instances.json"):
        edit(tmp_path / "pseudo" / name, change)
    paths = LabelPaths(tmp_path / "pseudo", tmp_path / "gt.json", tmp_path / "gt")
    report = evaluate_labels(paths, Scoring(list(RULES), stuff="category", seeds=2))
    for scores in report["policies"]:
        figures = scores["figures"]
        assert list(figures.values()) == pytest.approx([100] * len(figures)), scores["policy"]
        assert max(scores["control_mean"].values()) <= 100
    for kind in ("mask", "box"):
        assert report["class_agnostic"][kind]["AP"] == pytest.approx(100)
    for name in ("gt.json", "panoptic.json", "instances.json"):
        check_what_is_said(caplog, name, change)


def uncompressed(entry):
    from pycocotools import mask as coco_mask

    pixels = coco_mask.decode(entry["segmentation"]).ravel(order="F")
    starts = np.flatnonzero(np.diff(pixels, prepend=0))
    entry["segmentation"]["counts"] = np.diff([0, *starts, len(pixels)]).tolist()


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_odd_instances_are_read_or_refused_in_words(backend, tmp_path):
    pytest.importorskip(backend)
    truth = random_truth(np.random.default_rng(4), photos=4)
    truth.write(tmp_path / "gt.json", tmp_path / "gt")
    pseudo = write_pseudo(permuted(truth, np.random.default_rng(0)), tmp_path / "pseudo", instances=True)
    paths, scoring = LabelPaths(pseudo, tmp_path / "gt.json", tmp_path / "gt"), Scoring(seeds=0, backend=backend)
    edit(pseudo / "instances.json", uncompressed)
    assert evaluate_labels(paths, scoring)["class_agnostic"]["mask"]["AP"] == pytest.approx(100)
    for change, words in (
        (lambda entry: entry.update(segmentation=[[1, 1, 5, 1, 5, 5]]), "has no run-length code"),
        (
            lambda entry: entry.update(score=float("nan")),
            "annotation 1 of 'photo 000.jpg' has the 'score' nan",
        ),
    ):
        edit(pseudo / "instances.json", change)
        with pytest.raises(DataError, match=words):
            evaluate_labels(paths, scoring)
