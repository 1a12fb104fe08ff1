import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import permuted, random_pseudo, random_truth, write_png, write_pseudo

from u2seg.evaluation import detection, labels

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_pseudo.py"


def run(*options):
    """Call the tool in a process of its own; returns exit code, stdout, stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(TOOL), *map(str, options)], capture_output=True, env=environment)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def main(monkeypatch, capsys):
    """Call the tool in this process; returns exit code, stdout, stderr."""
    import importlib.util

    from u2seg.runtime import run_tool

    spec = importlib.util.spec_from_file_location("evaluate_pseudo", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["evaluate_pseudo.py", *map(str, options)])
        code = run_tool(module.main)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def truth(tmp_path):
    labels = random_truth(np.random.default_rng(4), photos=12)
    labels.write(tmp_path / "gt.json", tmp_path / "gt")
    return labels


@pytest.fixture
def options(tmp_path):
    return ["--pseudo", tmp_path / "pseudo", "--gt", tmp_path / "gt.json", "--gt-dir", tmp_path / "gt"]


def test_permuted_truth_scores_100_from_files(tmp_path, truth, options):
    write_pseudo(permuted(truth, np.random.default_rng(0)), tmp_path / "pseudo", instances=True)
    code, out, err = run(*options, "--gt-stuff", "category", "--json", tmp_path / "r.json", "--per-class", 2)
    assert code == 0, err
    result = json.loads((tmp_path / "r.json").read_text())
    for kind in ("mask", "box"):
        assert result["class_agnostic"][kind]["AP"] == pytest.approx(100)
        assert result["class_agnostic"][kind]["recall50"] == pytest.approx(100)
    assert [entry["policy"] for entry in result["policies"]] == [
        "many_to_one",
        "one_to_one",
        "one_to_one_then_majority",
    ]
    for entry in result["policies"]:
        assert set(np.round(list(entry["figures"].values()), 9)) == {100.0}
        assert entry["control_mean"]["PQ"] < 70
        assert {kind["PQ"] for kind in entry["per_class"]} == {100.0}
    assert out.count("- by chance") == 6
    assert "best and worst of 8 classes" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gt", "gt.json", "pseudo", "r.json"]


def test_random_clusters_are_called_close_to_chance_and_masks_come_from_pngs(tmp_path, truth, options, main):
    write_pseudo(random_pseudo(np.random.default_rng(0), truth), tmp_path / "pseudo")
    code, out, _ = main(*options, "--folds", 2, "--policies", "many_to_one,u2seg_paper", "--workers", 2)
    assert code == 0
    assert "warning: many_to_one, matched on the photos that are scored, is close to chance: PQ " in out
    assert "Matched on other photos of this set (2 folds)" in out
    assert "from panoptic PNGs, for want of instances.json" in out


def test_masks_from_pngs_equal_masks_from_instances(tmp_path, truth, options, main):
    write_pseudo(random_pseudo(np.random.default_rng(0), truth), tmp_path / "pseudo", instances=True)
    results = []
    for library in ("pycocotools", None):
        more = ["--coco-library", library] if library else []
        assert main(*options, "--json", tmp_path / "r.json", "--seeds", 0, *more)[0] == 0
        results.append(json.loads((tmp_path / "r.json").read_text())["class_agnostic"])
        (tmp_path / "pseudo" / "instances.json").unlink(missing_ok=True)
    for kind in ("mask", "box"):
        assert results[0][kind] == pytest.approx(results[1][kind], nan_ok=True)


def test_sets_that_are_matched_in_parts_have_the_same_report(tmp_path, truth, options, main, monkeypatch):
    write_pseudo(random_pseudo(np.random.default_rng(0), truth), tmp_path / "pseudo", instances=True)
    detections, made, reports = labels._detections, [], []
    monkeypatch.setattr(labels, "_detections", lambda entries: made.append(entries) or detections(entries))
    monkeypatch.setattr(detection, "IMAGES_AT_ONCE", 5)
    for most, instances in ((12, True), (11, True), (11, False)):
        monkeypatch.setattr(detection, "MOST_AT_ONCE", most)
        if not instances:
            (tmp_path / "pseudo" / "instances.json").unlink()
        assert main(*options, "--json", tmp_path / "r.json", "--policies", "many_to_one,u2seg_paper")[0] == 0
        reports.append(json.loads((tmp_path / "r.json").read_text()))
        assert len(made) == 12 * instances, "those of each photo are made once"
        made.clear()
    figures = [{kind: report["class_agnostic"].pop(kind) for kind in ("mask", "box", "source")} for report in reports]
    assert reports[0] == reports[1] == reports[2]
    for kind in ("mask", "box"):
        assert 0 < figures[0][kind]["AP"] < 100
        for each in figures[1:]:
            assert each[kind] == pytest.approx(figures[0][kind], abs=1e-9)


def test_fit_on_save_and_load_agree(tmp_path, truth, options, main):
    write_pseudo(random_pseudo(np.random.default_rng(0), truth), tmp_path / "pseudo")
    other = random_truth(np.random.default_rng(9), photos=15)
    other.write(tmp_path / "other.json", tmp_path / "other")
    write_pseudo(random_pseudo(np.random.default_rng(1), other), tmp_path / "pseudo2")
    fit = ["--fit-on", tmp_path / "pseudo2", "--fit-gt", tmp_path / "other.json", "--fit-gt-dir", tmp_path / "other"]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    assert main(*options, *fit, "--save-matching", tmp_path / "m.json", "--json", files[0])[0] == 0
    assert main(*options, "--matching", tmp_path / "m.json", "--json", files[1])[0] == 0
    first, second = (json.loads(file.read_text())["policies"] for file in files)
    assert [entry["figures"] for entry in first] == [entry["figures"] for entry in second]
    assert main(*options, *fit, "--matching", tmp_path / "m.json")[0] == 2


def test_photos_on_one_side_only_are_counted(tmp_path, truth, options, main):
    pseudo = permuted(truth, np.random.default_rng(0))
    pseudo.names[0] = "elsewhere/unknown.jpg"
    pseudo.names[1] = f"nested/{Path(pseudo.names[1]).stem}.jpeg"
    write_pseudo(pseudo, tmp_path / "pseudo")
    code, out, _ = main(*options)
    assert code == 0
    assert "11 photos scored" in out
    assert "left out: 1 photos with human labels only, such as photo 000.jpg" in out
    assert "left out: 1 photos with pseudo labels only, such as elsewhere/unknown.jpg" in out


def broken_json(folder):
    (folder / "pseudo" / "panoptic.json").write_text("{")


def no_panoptic(folder):
    (folder / "pseudo" / "panoptic.json").unlink()


def instances_for_panoptic(folder):
    content = json.loads((folder / "pseudo" / "panoptic.json").read_text())
    for entry in content["categories"]:
        del entry["isthing"]
    (folder / "gt.json").write_text(json.dumps(content))


def missing_png(folder):
    next(iter(sorted((folder / "pseudo" / "panoptic").iterdir()))).unlink()


def other_size(folder):
    write_png(next(iter(sorted((folder / "pseudo" / "panoptic").iterdir()))), np.zeros((5, 6), int))


def unlisted_id(folder):
    ids = np.full((30, 40), 12345)
    write_png(next(iter(sorted((folder / "pseudo" / "panoptic").iterdir()))), ids)


def edit(folder, change):
    file = folder / "pseudo" / "panoptic.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def strange_category(folder):
    edit(folder, lambda content: content["annotations"][0]["segments_info"][0].update(category_id=999))


def wrong_kind(folder):
    edit(folder, lambda content: [s.update(isthing=7 - 7) for s in content["annotations"][0]["segments_info"]])


def no_supercategory(folder):
    content = json.loads((folder / "gt.json").read_text())
    for entry in content["categories"]:
        entry["supercategory"] = "none"
    (folder / "gt.json").write_text(json.dumps(content))


def strangers(folder):
    edit(folder, lambda content: [image.update(file_name=f"x{image['id']}") for image in content["images"]])


def bad_instances(folder):
    (folder / "pseudo" / "instances.json").write_text('{"annotations": [{"image_id": 1}]}')


FAULTS = {
    broken_json: "can't be read as JSON",
    no_panoptic: "holds no panoptic.json; tools/generate_pseudo.py makes one",
    instances_for_panoptic: "category 'cluster_1' has no 'isthing'",
    missing_png: "photo 'photo 000.jpg': there is no file",
    other_size: "photo 000.png has 6 x 5 pixels (width x height), panoptic.json says 40 x 30",
    unlisted_id: "the PNG of its label holds segment id 12345, which the JSON does not list",
    strange_category: "has category_id 999, not in 'categories'",
    wrong_kind: "disagree on 'isthing'",
    strangers: "no photo of",
    no_supercategory: "category 'grass' has no supercategory; use --gt-stuff category",
    bad_instances: "annotation None of 'photo 000.jpg' has no 'category_id'",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_one_line_and_exit_2(fault, tmp_path, truth, options, main):
    write_pseudo(permuted(truth, np.random.default_rng(0)), tmp_path / "pseudo")
    fault(tmp_path)
    code, out, err = main(*options)
    assert (code, out) == (2, "")
    assert FAULTS[fault] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--policies", "many_to_on"], "Did you mean 'many_to_one'"),
        (["--gt-stuff", "coarse"], "no level of classes named 'coarse'"),
        (["--folds", "1"], "--folds (TEST.MATCHING.FOLDS) takes 2 to the number of photos (12), not 1"),
        (["--seeds", "-1"], "--seeds (TEST.MATCHING.SEEDS) takes 0 or more"),
        (["--gt-dir", "absent"], "there is no directory absent"),
        (["--gt", "absent.json"], "there is no file absent.json"),
        (["--pseudo", "absent"], "there is no directory absent"),
        (["--matching", "absent.json"], "there is no file absent.json"),
        (["--matching", "m.json", "--folds", "2"], "--matching (TEST.MATCHING.FIT_ON) fits nothing"),
        (["--fit-gt", "other.json"], "describe --fit-on, which is missing"),
    ],
)
def test_wrong_choices_are_one_line_and_exit_2(more, message, tmp_path, truth, options, main):
    write_pseudo(permuted(truth, np.random.default_rng(0)), tmp_path / "pseudo")
    code, out, err = main(*options, *more)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
