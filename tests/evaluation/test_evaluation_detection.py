import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from u2seg.errors import UsageError
from u2seg.evaluation import detection
from u2seg.evaluation.detection import BRIEF, default_backend, detection_scores, scores_by_kind
from u2seg.evaluation.tables import Table, join_rows, segment_rows
from u2seg.panoptic import SegmentInfo

SIZE = (200, 220)


def blob(rng):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx, ry, rx = rng.uniform((0, 0, 4, 4), (*SIZE, 80, 80))
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def entry(mask, image, **more):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = coco_mask.toBbox(code).tolist()
    return {"image_id": image, "category_id": 1, "segmentation": code, "bbox": box, **more}


def objects(seed, photos=12):
    """Blobs with crowds; predictions are moved blobs, with scores that tie."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(photos):
        for _ in range(rng.integers(1, 8)):
            mask = blob(rng)
            if mask.any():
                truth.append(entry(mask, image, area=int(mask.sum()), iscrowd=int(rng.random() < 0.1)))
                moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
                found.append(entry(moved, image, score=round(float(rng.random()), 1)))
        for _ in range(rng.integers(0, 5)):
            mask = blob(rng)
            if mask.any():
                found.append(entry(mask, image, score=round(float(rng.random()), 1)))
    sizes = [{"id": image, "width": SIZE[1], "height": SIZE[0]} for image in range(photos)]
    return sizes, truth, found


def pycocotools_stats(images, truth, detections, kind):
    """The twelve figures of pycocotools' own summary."""
    gt = COCO()
    gt.dataset = {
        "info": {},
        "images": images,
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**e, "id": i} for i, e in enumerate(truth, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        keys = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
        found = gt.loadRes([{key: e[key] for key in keys} for e in detections])
        evaluator = COCOeval(gt, found, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.fixture(params=["hotcoco", "pycocotools"])
def backend(request):
    """Each COCO library that is installed."""
    pytest.importorskip(request.param)
    return request.param


NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR@1", "AR@10", "AR@100")
NAMES += ("AR@100_small", "AR@100_medium", "AR@100_large")


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_figures_equal_pycocotools_to_the_last_digit(kind, backend):
    given = objects(0)
    expected = pycocotools_stats(*given, kind)
    found = detection_scores(*given, kind, backend)
    assert 10 < found["AP"] < 90
    assert [found[name] for name in NAMES] == pytest.approx((100 * expected).tolist(), rel=0, abs=1e-10)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_brief_figures_are_those_of_the_whole_summary(kind, backend):
    images, truth, detections = objects(3)
    crowded = [{**detections[0], "score": 0.001 * number} for number in range(130)]  # over the limit of 100
    mixed = [
        [{**entry, "category_id": 1 + number % 3} for number, entry in enumerate(part)]
        for part in (truth, [*detections, *crowded])
    ]
    whole, brief = (detection_scores(images, *mixed, kind, backend, brief=brief) for brief in (False, True))
    assert tuple(brief) == BRIEF
    assert brief == {name: whole[name] for name in BRIEF}


def test_recall50_by_hand():
    images, truth, _ = objects(1, photos=3)
    perfect = [{**e, "score": 1.0} for e in truth if not e["iscrowd"]]
    assert detection_scores(images, truth, perfect[::2])["recall50"] == pytest.approx(
        100 * len(perfect[::2]) / len(perfect)
    )


def test_nothing_found_scores_zero_and_nothing_there_is_undefined():
    images, truth, detections = objects(2, photos=2)
    assert set(detection_scores(images, truth, []).values()) == {0.0}
    for found in ([], detections):
        assert np.isnan(list(detection_scores(images, [], found).values())).all()


def test_unknown_library_is_refused():
    assert default_backend() in ("hotcoco", "pycocotools")
    with pytest.raises(UsageError, match="Did you mean 'hotcoco'"):
        detection_scores(*objects(0, photos=1), backend="hotcocoa")


@pytest.mark.parametrize("brief", [True, False])
@pytest.mark.parametrize("images_at_once", [1, 7])
def test_parts_give_the_figures_of_the_whole(brief, images_at_once, backend, monkeypatch):
    """Parts without truth or without detections are among them, and classes that only one part has."""
    rng = np.random.default_rng(5)
    maps = [rng.integers(0, 4, (4, 5)).repeat(40, 0).repeat(40, 1) for _ in range(20)]
    maps[3][:], maps[4][:] = 0, 0
    rows, sizes = [], tuple(ids.shape for ids in maps)
    for shift in (0, 3):
        part = []
        for ids in maps:
            moved = np.roll(ids, shift, (0, 1))
            segments = [SegmentInfo(int(n), 1, True, bool(n == 3), rng.random()) for n in np.unique(moved) if n]
            part.append(segment_rows(segments, np.bincount(moved.ravel())[[s.id for s in segments]], moved))
        rows.append(join_rows(part))
    gt, detections = rows
    detections = detections[detections["image"] != 8]
    table = Table(gt, detections, *(np.zeros(0, np.int64) for _ in range(3)), sizes)
    labels = [rng.integers(-1, 6, len(part)) for part in (gt, detections)]
    whole = scores_by_kind(table, labels[0], detections, labels[1], backend, brief=brief)
    monkeypatch.setattr(detection, "MOST_AT_ONCE", 0)
    monkeypatch.setattr(detection, "IMAGES_AT_ONCE", images_at_once)
    parts = scores_by_kind(table, labels[0], detections, labels[1], backend, brief=brief)
    assert 0 < whole["mask"]["AP"] < 100
    for kind, figures in whole.items():
        assert parts[kind] == pytest.approx(figures, rel=0, abs=1e-10, nan_ok=True)
    for empty in (gt[:0], gt):
        bare = Table(empty, empty, *(np.zeros(0, np.int64) for _ in range(3)), sizes)
        nothing = scores_by_kind(bare, np.zeros(len(empty), np.int64), gt[:0], np.zeros(0, np.int64), backend)
        assert all(np.isnan(value) if not len(empty) else value == 0 for value in nothing["mask"].values())
