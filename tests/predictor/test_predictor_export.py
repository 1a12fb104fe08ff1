"""The exported model beside the one it came from, and the scripted merge beside Detectron2's."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from predictor_model import THINGS, make_photo, save_weights

from u2seg.engine.export import ExportedPredictor, PanopticMerge, export_model
from u2seg.engine.predictor import Predictor
from u2seg.errors import DataError, UsageError


@pytest.fixture(scope="module")
def exported(predictor, tmp_path_factory):
    return export_model(predictor, tmp_path_factory.mktemp("export") / "tiny.ts")


@pytest.mark.parametrize("size", [(60, 80), (97, 51), (33, 200)])
def test_it_gives_the_same_segments_at_any_size(predictor, exported, size):
    photo = make_photo(*size)
    expected, found = predictor(photo), ExportedPredictor(exported)(photo)
    np.testing.assert_array_equal(found.panoptic, expected.panoptic)
    assert [s.category_id for s in found.segments] == [s.category_id for s in expected.segments]
    assert [s.name for s in found.segments] == [s.name for s in expected.segments]
    np.testing.assert_allclose([s.score for s in found.segments], [s.score for s in expected.segments], atol=1e-5)
    np.testing.assert_array_equal(found.instances.masks, expected.instances.masks)
    np.testing.assert_array_equal(found.instances.category_ids, expected.instances.category_ids)
    np.testing.assert_allclose(found.instances.boxes, expected.instances.boxes, atol=1e-3)
    assert len({s.category_id for s in expected.segments}) > 2


def test_it_works_where_nothing_is_found(tiny, tmp_path):
    photos = [make_photo(60, 80, seed) for seed in range(4)]
    probe = Predictor.from_config(tiny.config, tiny.weights, confidence=0.05, device="cpu")
    best = [float(probe(photo).instances.scores.max()) for photo in photos]
    high, low = int(np.argmax(best)), int(np.argmin(best))
    between = Predictor.from_config(tiny.config, tiny.weights, confidence=(best[high] + best[low]) / 2, device="cpu")
    exported = ExportedPredictor(export_model(between, tmp_path / "a.ts", photos[high]))
    assert len(exported(photos[high]).instances)
    assert not len(exported(photos[low]).instances)
    np.testing.assert_array_equal(exported(photos[low]).panoptic, between(photos[low]).panoptic)
    with pytest.raises(DataError, match="nothing is detected in the photo to trace with"):
        export_model(between, tmp_path / "b.ts", photos[low])
    assert not (tmp_path / "b.ts").exists()


def test_the_file_needs_neither_detectron2_nor_this_package(exported, predictor, photo, tmp_path):
    from u2seg.engine.trained import to_network

    expected = predictor(photo)
    torch.save(to_network(photo, "RGB", predictor.cfg.INPUT.MIN_SIZE_TEST, 10**6), tmp_path / "image.pt")
    code = (
        "import sys, torch, torchvision\n"
        f"model = torch.jit.load({str(exported)!r}).eval()\n"
        f"out = model(torch.load({str(tmp_path / 'image.pt')!r}), {photo.shape[0]}, {photo.shape[1]})\n"
        f"torch.save(out[:2], {str(tmp_path / 'out.pt')!r})\n"
        "sys.exit(len({'detectron2', 'u2seg'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    panoptic, categories = torch.load(tmp_path / "out.pt")
    np.testing.assert_array_equal(panoptic.numpy(), expected.panoptic)
    assert categories.tolist() == [s.category_id for s in expected.segments]


def test_mistakes_are_said(predictor, tmp_path):
    with pytest.raises(UsageError, match="there is no exported model"):
        ExportedPredictor(tmp_path / "gone.ts")
    other = tmp_path / "other.ts"
    other.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"is no model of tools/export_model\.py"):
        ExportedPredictor(other)
    with pytest.raises(UsageError, match="can't be written: what should be its folder is a file"):
        export_model(predictor, other / "below.ts")


@pytest.mark.slow
def test_the_model_of_300_classes_too(tmp_path):
    """Random weights under the published names, on photos smaller than usual."""
    eval_300 = Path(__file__).parents[2] / "configs" / "COCO-PanopticSegmentation" / "u2seg_eval_300.yaml"
    weights = save_weights(eval_300, tmp_path / "cocotrain_300_0089999.pth", large=True)
    opts = ["INPUT.MIN_SIZE_TEST", "320", "INPUT.MAX_SIZE_TEST", "600"]
    made = Predictor.from_config(eval_300, weights, confidence=0.05, device="cpu", opts=opts)
    exported = ExportedPredictor(export_model(made, tmp_path / "a.ts"))
    for size in ((240, 320), (400, 150)):
        photo = make_photo(*size)
        expected, found = made(photo), exported(photo)
        assert len(set(expected.instances.scores)) > 10  # among equal scores the order would be anyone's
        assert len(expected.segments) > 2
        np.testing.assert_array_equal(found.panoptic, expected.panoptic)
        assert [s.category_id for s in found.segments] == [s.category_id for s in expected.segments]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 8),
    overlap=st.sampled_from([0.0, 0.5, 1.0]),
    stuff_area=st.sampled_from([0.0, 10.0, 60.0]),
    min_score=st.sampled_from([0.0, 0.4]),
)
def test_the_merge_is_detectron2s(seed, count, overlap, stuff_area, min_score):
    generator = torch.Generator().manual_seed(seed)
    height, width, stuff = 12, 15, 3
    scores = torch.rand(count, generator=generator)
    classes = torch.randint(THINGS, (count,), generator=generator)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        top, left, h, w = torch.randint(0, 10, (4,), generator=generator).tolist()
        mask[top : top + h, left : left + w] = True  # may be empty
    logits = torch.randn(stuff + 1, height // 3, width // 3, generator=generator)
    logits = torch.nn.functional.interpolate(logits[None], size=(height, width))[0]
    found = Instances((height, width), scores=scores, pred_classes=classes, pred_masks=masks)
    ids, info = combine_semantic_and_instance_outputs(found, logits.argmax(0), overlap, stuff_area, min_score)
    merge = PanopticMerge(
        torch.nn.Identity(), num_things=THINGS, overlap=overlap, stuff_area=stuff_area, min_score=min_score
    )
    panoptic, categories, segment_scores = merge.merge(scores, classes, masks, logits)
    # Detectron2 also lists stuff of no pixel where any area is enough
    info = [segment for segment in info if segment.get("area", 1)]
    shift = {True: 1, False: THINGS}
    assert categories.tolist() == [s["category_id"] + shift[s["isthing"]] for s in info]
    table = torch.zeros(int(ids.max()) + 1, dtype=torch.int32)
    for place, segment in enumerate(info, start=1):
        if segment["id"] < len(table):
            table[segment["id"]] = place
    assert torch.equal(panoptic, table[ids.long()])
    for segment, score in zip(info, segment_scores.tolist(), strict=True):
        assert not segment["isthing"] or score == pytest.approx(segment["score"])
