import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from u2seg.errors import DataError
from u2seg.evaluation.tables import VOID, Table, compare_maps, join_rows, overlap_table, rows_of_images
from u2seg.panoptic import SegmentInfo
from u2seg.panoptic.run_lengths import encode_masks, encode_segments

LARGE = 256**3 - 1


def counted(gt_ids, pred_ids, gt, pred):
    """Pixel by pixel."""
    table = np.zeros((len(gt) + 1, len(pred) + 1), np.int64)
    for a, b in zip(gt_ids.ravel().tolist(), pred_ids.ravel().tolist(), strict=True):
        table[[0, *gt].index(a), [0, *pred].index(b)] += 1
    return table


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.lists(st.integers(1, LARGE), max_size=5, unique=True))
def test_table_equals_counting_pixel_by_pixel(seed, gt):
    rng = np.random.default_rng(seed)
    pred = [7, 300, LARGE]
    gt_ids, pred_ids = rng.choice([0, *gt], (9, 13)), rng.choice([0, *pred], (9, 13))
    assert np.array_equal(overlap_table(gt_ids, pred_ids, gt, pred), counted(gt_ids, pred_ids, gt, pred))


def test_table_names_an_unlisted_id_and_another_size():
    ids = np.array([[0, 5], [5, 9]])
    with pytest.raises(DataError, match="label holds segment id 9"):
        overlap_table(np.zeros((2, 2), int), ids, [], [5])
    with pytest.raises(DataError, match="ground truth holds segment id 9"):
        overlap_table(ids, np.zeros((2, 2), int), [5], [])
    with pytest.raises(DataError, match="its label is 4 x 3 pixels, the ground truth 2 x 2"):
        overlap_table(ids, np.zeros((3, 4), int), [5, 9], [])
    with pytest.raises(DataError, match="not distinct numbers"):
        overlap_table(ids, ids, [5, 9], [5, 5, 9])
    with pytest.raises(DataError, match="not distinct numbers"):
        overlap_table(ids, ids, [5, 9], [0, 5, 9])


def test_listed_prediction_without_pixels_is_refused():
    ids = np.ones((2, 2), int)
    info = [SegmentInfo(1, 1, True), SegmentInfo(2, 1, True)]
    with pytest.raises(DataError, match="no pixel of segment id 2"):
        compare_maps(ids, ids, info[:1], info)


def test_joined_tables_have_the_rows_and_pairs_of_each_image():
    """Some images are without a segment, and growth passes its own margin more than once."""
    rng, images = np.random.default_rng(0), []
    for _ in range(40):
        maps = rng.integers(0, rng.integers(1, 6), (2, 4, 5))
        segments = [
            [SegmentInfo(int(n), 1, bool(n % 2), score=rng.random()) for n in np.unique(ids) if n] for ids in maps
        ]
        images.append(compare_maps(*maps, *segments))
    whole = Table.join(iter(images))
    halves = Table.join([Table.join(images[:13]), Table.join(images[13:])])
    for table in (whole, halves):
        assert table.sizes == ((4, 5),) * 40
        for side in ("gt", "pred"):
            rows, parts = getattr(table, side), [getattr(image, side) for image in images]
            assert rows["image"].tolist() == [index for index, part in enumerate(parts) for _ in part]
            for name in ("id", "code", "score", "area"):
                assert rows[name].tolist() == [value for part in parts for value in part[name].tolist()]
            for index, part in enumerate(parts):
                assert rows_of_images(rows, index, index + 1)["id"].tolist() == part["id"].tolist()
    pairs = list(zip(whole.pair_gt.tolist(), whole.pair_pred.tolist(), whole.pixels.tolist(), strict=True))
    start, by_hand = [0, 0], []
    for image in images:
        for first, second, pixels in zip(image.pair_gt, image.pair_pred, image.pixels, strict=True):
            places = [VOID if first == VOID else first + start[0], VOID if second == VOID else second + start[1]]
            by_hand.append((*places, pixels))
        start = [start[0] + len(image.gt), start[1] + len(image.pred)]
    assert pairs == by_hand
    assert pairs == list(zip(halves.pair_gt.tolist(), halves.pair_pred.tolist(), halves.pixels.tolist(), strict=True))


def test_joined_rows_count_their_images_from_the_first():
    rows = [compare_maps(ids, ids, *2 * [[SegmentInfo(1, 1, True)]]).gt for ids in np.ones((3, 2, 2), int)]
    assert join_rows(rows, 7)["image"].tolist() == [7, 8, 9]
    assert len(join_rows([])) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_run_lengths_equal_pycocotools(seed, height, width):
    ids = np.random.default_rng(seed).integers(0, 4, (height, width))
    wanted = [3, 1, 2, 77]
    for segment, code in zip(wanted, encode_segments(ids, wanted), strict=True):
        expected = coco_mask.encode(np.asfortranarray(ids == segment).astype(np.uint8))
        assert np.array_equal(coco_mask.decode(code), coco_mask.decode(expected))
        assert encode_masks((ids == segment)[None]) == [expected]
        assert code == expected


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(1, 20), st.integers(1, 70))
def test_run_lengths_of_many_masks_at_once_equal_pycocotools(seed, count, height, width):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    assert encode_masks(masks) == [coco_mask.encode(np.asfortranarray(mask).astype(np.uint8)) for mask in masks]


def test_run_lengths_of_full_columns_and_nothing():
    for mask in (np.ones((4, 5), bool), np.zeros((4, 5), bool), np.eye(5, dtype=bool), np.tri(6, 6, -5) > 0):
        assert encode_masks(mask[None])[0] == coco_mask.encode(np.asfortranarray(mask).astype(np.uint8))
