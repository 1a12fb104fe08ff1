"""CAUSE as an installed plugin: found by u2seg, trained by its trainer, used by its label factory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from u2seg_cause.model import _first_of_each
from u2seg_cause.segmenter import CauseStuff

from u2seg.engine.config import get_cfg
from u2seg.engine.trainer import trainer_class
from u2seg.plugins.checks import check_picklable, check_stuff_segmenter
from u2seg.plugins.registry import installed_plugins, register_detectron2

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight photos, and weights of a tiny random ViT."""
    import timm

    root = tmp_path_factory.mktemp("cause")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        coarse = rng.integers(0, 255, (4, 5, 3), np.uint8)
        Image.fromarray(coarse).resize((160, 140), Image.Resampling.BICUBIC).save(root / "photos" / f"{index}.png")
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), root / "vit.pth")
    return root


def config(world, output):
    from u2seg.config import fill

    register_detectron2()
    cfg = get_cfg()
    fill(cfg, str(CONFIGS[0].with_name("cause_quick.yaml")))
    for node in (cfg.U2SEG.FEATURES, cfg.U2SEG.STUFF.FEATURES):
        node.ARGS.vit.model, node.ARGS.vit.weights = "vit_tiny_patch16_224", str(world / "vit.pth")
        node.ARGS.vit.size = 64
    cfg.U2SEG.NUM_STUFF, cfg.MODEL.DEVICE = 5, "cpu"
    cfg.STEGO.IMAGES, cfg.STEGO.CACHE, cfg.OUTPUT_DIR = str(world / "photos"), str(world / "cache"), str(output)
    cfg.STEGO.CODE_DIM = 8
    cfg.CAUSE.NUM_CONCEPTS, cfg.CAUSE.BOOK_STEPS, cfg.CAUSE.PROJECTION = 16, 2, 12
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 4, 4, 2
    Path(output).mkdir(exist_ok=True, parents=True)
    return cfg


def train(cfg, resume=False, stop=None):
    """Train as tools/train_net.py does; with ``stop``, as if it were killed after so many steps."""
    from detectron2.engine import TrainerBase

    torch.manual_seed(int(resume))
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=resume)
    TrainerBase.train(trainer, trainer.start_iter, stop or trainer.max_iter)
    return trainer


def test_u2seg_finds_the_segmenter_in_this_distribution():
    offer = installed_plugins().offer("stuff segmenter", "cause")
    assert offer.factory is CauseStuff
    assert offer.distribution.startswith("u2seg-cause ")


def test_its_keys_come_to_configs_of_training_alone():
    from u2seg.config import get_pseudo_cfg
    from u2seg.plugins.registry import add_plugin_config

    labels = get_pseudo_cfg()
    add_plugin_config(labels)
    assert "CAUSE" not in labels
    assert get_cfg().CAUSE.NUM_CONCEPTS == 2048


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_have_the_decay_and_clipping_of_the_authors(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.SOLVER.TRAINER_NAME) == ("CAUSE", "StuffTrainer")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert (cfg.SOLVER.WEIGHT_DECAY, clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (1e-4, True, "norm", 0.1)


def test_a_resumed_run_ends_as_an_unbroken_one_and_its_checkpoint_labels_stuff(world, tmp_path):
    whole = train(config(world, tmp_path / "whole")).model.state_dict()
    half = config(world, tmp_path / "half")
    train(half, stop=2)
    resumed = train(half, resume=True)
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.model.state_dict().items())
    resumed.test(half, resumed.model)
    segmenter = CauseStuff(num_classes=5, checkpoint=str(tmp_path / "half" / "stuff_final.pth"))
    check_stuff_segmenter(segmenter, dim=192)
    check_picklable(segmenter)


def test_each_anchor_is_kept_from_being_its_own_positive(world, tmp_path, monkeypatch):
    import u2seg_cause.model

    cfg = config(world, tmp_path)
    cfg.STEGO.DROPOUT = 0.0
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=False)
    seen = []
    monkeypatch.setattr(u2seg_cause.model, "contrast", lambda *args: seen.append(args) or args[0].sum())
    trainer.model(next(iter(trainer.data_loader)))
    anchors, others, positive, _, _ = seen[0]
    own = (anchors @ others.T) > 1 - 1e-5  # the slow head is the head's copy still
    assert own.any(dim=1).all()
    assert not (own & positive).any()
    assert positive.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_and_gradients_in_mixed_precision_are_those_of_full_precision(world, tmp_path, dtype):
    """The autocast of ``SOLVER.AMP``, on a CPU."""
    cfg = config(world, tmp_path)
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=False)
    samples, model = next(iter(trainer.data_loader)), trainer.model.train()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def step(mixed):
        model.load_state_dict(start)
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=dtype, enabled=mixed):
            losses = model(samples)
        (sum(losses.values()) * 2.0**8).backward()  # scaled as on a GPU, where a scaler finds how far it can go
        grads = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
        return {name: float(loss.detach()) for name, loss in losses.items()}, grads

    (whole, full), (mixed, half) = step(False), step(True)
    assert mixed == pytest.approx(whole, rel=0.03, abs=3e-3)
    assert torch.isfinite(half).all()
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.98


def test_first_of_each():
    values, where = _first_of_each(torch.tensor([5, 2, 5, 2, 9]))
    assert (values.tolist(), where.tolist()) == ([2, 5, 9], [1, 0, 4])
