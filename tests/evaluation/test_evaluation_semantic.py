import numpy as np
import pytest
from evaluation_data import compare, fit_itself, random_pseudo, random_truth
from hypothesis import given, settings
from hypothesis import strategies as st


def counted(comparison, truth, pseudo, classes_of_pred, chosen):
    """Pixel accuracy and mIoU (percent) from whole class maps."""
    taxonomy = comparison.taxonomy
    gt_all, pred_all, start = [], [], 0
    for gt_ids, pred_ids, gt_info, pred_info in zip(truth.maps, pseudo.maps, truth.infos, pseudo.infos, strict=True):
        gt_map, pred_map = np.full(gt_ids.shape, -1), np.full(gt_ids.shape, -1)
        for segment in gt_info:
            gt_map[gt_ids == segment["id"]] = taxonomy.class_of[segment["category_id"]]
        for number, segment in enumerate(pred_info, start=start):
            pred_map[pred_ids == segment["id"]] = classes_of_pred[number]
        start += len(pred_info)
        gt_all.append(gt_map.ravel())
        pred_all.append(pred_map.ravel())
    gt_map, pred_map = np.concatenate(gt_all), np.concatenate(pred_all)
    keep = np.isin(gt_map, np.flatnonzero(chosen))
    gt_map, pred_map = gt_map[keep], pred_map[keep]
    ious = [
        ((gt_map == c) & (pred_map == c)).sum() / ((gt_map == c) | (pred_map == c)).sum() for c in np.unique(gt_map)
    ]
    return 100 * (gt_map == pred_map).mean(), 100 * np.mean(ious)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["many_to_one", "one_to_one"]))
def test_semantic_figures_equal_whole_maps(seed, policy):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, photos=4)
    pseudo = random_pseudo(rng, truth)
    comparison = compare(truth, pseudo)
    classes = fit_itself(comparison).classes(policy)
    figures = comparison.figures(classes)
    isthing = comparison.taxonomy.isthing
    for suffix, chosen in (("", np.ones_like(isthing)), ("_stuff", ~isthing)):
        if np.isnan(figures[f"mIoU{suffix}"]):
            continue
        expected = counted(comparison, truth, pseudo, classes, chosen)
        found = (figures[f"pixel_accuracy{suffix}"], figures[f"mIoU{suffix}"])
        assert found == pytest.approx(expected, abs=1e-9)
