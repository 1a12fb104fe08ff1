"""From photos to labels by our generator, and from labels to a few steps of training by our mapper and model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from PIL import Image

from u2seg.config import fill, get_pseudo_cfg
from u2seg.engine.config import load_config
from u2seg.engine.trainer import trainer_class
from u2seg.errors import UsageError
from u2seg.images import find_photos
from u2seg.panoptic import read_panoptic
from u2seg.plugins.checks import sample_image
from u2seg.plugins.registry import add_plugin_config, register_detectron2
from u2seg.structures import LabelSpace

CONFIG = Path(__file__).with_name("train.yaml")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Labels of six photos, as tools/generate_pseudo.py makes them."""
    root = tmp_path_factory.mktemp("parts")
    (root / "photos").mkdir()
    for index in range(6):
        Image.fromarray(sample_image(96, 128, seed=index)).save(root / "photos" / f"{index}.png")
    assert make_labels(root).photos == len(find_photos(str(root / "photos")))
    return root / "labels"


def make_labels(root, *options):
    """Run the generator on the photos in ``root``."""
    from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS

    register_detectron2()
    cfg = get_pseudo_cfg()
    add_plugin_config(cfg)
    settings = "U2SEG.NUM_THINGS 2 U2SEG.NUM_STUFF 3 BRIGHTNESS.LEVEL 0.4 U2SEG.EXECUTOR.NAME inline"
    fill(cfg, options=[*settings.split(" "), *options])
    generator = PSEUDO_LABEL_GENERATORS.get("BrightnessGenerator")
    photos = generator.find_photos(cfg, str(root / "photos"), None)
    return generator(cfg, photos, root / "labels").run()


def build_trainer(labels, output, *options):
    """The trainer of tools/train_net.py."""
    data = ["DATASETS.TRAIN", str(labels), "OUTPUT_DIR", str(output), "MODEL.DEVICE", "cpu"]
    cfg = load_config(str(CONFIG), [*data, *map(str, options)])
    trainer_class(cfg).complete_config(cfg)
    output.mkdir(exist_ok=True)
    return trainer_class(cfg)(cfg)


def test_the_disc_of_each_photo_is_a_thing_on_stuff(labels):
    photos = read_panoptic(labels).photos
    kinds = [sorted(segment.category_id for segment in photo.segments) for photo in photos]
    assert len(kinds) == 6
    assert all(categories[0] in (1, 2) and categories[-1] > 2 for categories in kinds)


@pytest.mark.parametrize("kind", ["dark", "noise"])
def test_a_photo_without_things(kind):
    from u2seg_detectron2_parts.generator import segment

    shape = (600, 800, 3)
    image = np.zeros(shape, np.uint8) if kind == "dark" else np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    things, clusters, stuff = segment(image, 0.6, LabelSpace(2, 3))
    assert things.masks.shape == (0, 600, 800)
    assert len(clusters) == 0
    assert stuff.max() < 3


def test_other_settings_are_refused_by_name(labels):
    for key in ("U2SEG.NUM_THINGS", "U2SEG.NUM_STUFF", "BRIGHTNESS.LEVEL"):
        with pytest.raises(UsageError, match=rf"{key} was .* and is 1\b"):
            make_labels(labels.parent, key, "1")


def test_a_few_steps_of_training(labels, tmp_path):
    trainer = build_trainer(labels, tmp_path / "model")
    trainer.resume_or_load(resume=False)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert (tmp_path / "model" / "model_final.pth").is_file()
    after = dict(trainer.model.named_parameters())
    assert all(bool(torch.isfinite(weight).all()) for weight in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_trust_and_grey_are_as_their_keys_say(labels, tmp_path):
    losses = {}
    for power in (0.0, 2.0):
        torch.manual_seed(0)
        trainer = build_trainer(labels, tmp_path, "TRUST.POWER", power, "GREY.PROBABILITY", 1.0, "SEED", 0)
        torch.manual_seed(0)
        batch = next(iter(trainer.data_loader))
        assert all(bool((sample["image"] == sample["image"][:1]).all()) for sample in batch)
        for sample in batch:
            sample["sem_seg"][: len(sample["sem_seg"]) // 2] = 255  # half of the label is void now
        torch.manual_seed(0)
        with EventStorage():
            losses[power] = {name: float(loss.detach()) for name, loss in trainer.model(batch).items()}
    share = np.mean([(sample["sem_seg"] != 255).float().mean().item() for sample in batch])
    assert share < 0.6
    for name, loss in losses[0.0].items():
        assert losses[2.0][name] == pytest.approx(loss * share**2, rel=1e-3, abs=1e-6), name
