"""The contracts, as u2seg checks them, and a whole run; ``pytest examples/classic_parts``. Nothing is downloaded."""

import json
from pathlib import Path

import pytest
from PIL import Image
from u2seg_classic_parts import Felzenszwalb, MixtureStuff, ResNetFeatures

from u2seg import UsageError
from u2seg.config import fill, get_pseudo_cfg
from u2seg.images import find_photos
from u2seg.plugins.checks import (
    check_feature_extractor,
    check_mask_generator,
    check_picklable,
    check_stuff_segmenter,
    sample_image,
)
from u2seg.pseudo.pipeline import U2SegGenerator


@pytest.mark.parametrize("stage", [1, 3])
def test_the_extractor(stage):
    check_feature_extractor(ResNetFeatures(model="resnet18", weights="", stage=stage, size=64))


def test_the_mask_generator():
    check_mask_generator(Felzenszwalb())
    assert len(Felzenszwalb().generate(sample_image(96, 128), None)) >= 1


def test_the_stuff_segmenter():
    segmenter = MixtureStuff(num_classes=3)
    check_stuff_segmenter(segmenter)
    check_picklable(segmenter)


def test_values_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="1 to 4"):
        ResNetFeatures(stage=5)


def test_a_whole_run(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(4):
        Image.fromarray(sample_image(96, 128 + 8 * index, seed=index)).save(tmp_path / "photos" / f"{index}.png")
    cfg = get_pseudo_cfg()
    fill(cfg, str(Path(__file__).with_name("classic.yaml")))
    summary = U2SegGenerator(cfg, find_photos(str(tmp_path / "photos")), tmp_path / "out").run()
    assert summary.photos == 4
    parts = json.loads((tmp_path / "out" / "run.json").read_text())["parts"]
    assert parts["stuff segmenter"] == "mixture from u2seg-classic-parts 0.1.0"
