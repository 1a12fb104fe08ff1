"""Short training runs on made-up photos and a random network: resume, export, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_panoptic import write_dataset

from u2seg.errors import DataError, UsageError

CONFIGS = Path(__file__).parents[2] / "configs" / "STEGO"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve photos, and weights of a tiny random ViT."""
    import timm

    root = tmp_path_factory.mktemp("stego")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        coarse = rng.integers(0, 255, (4, 5, 3), np.uint8)
        Image.fromarray(coarse).resize((160, 140), Image.Resampling.BICUBIC).save(root / "photos" / f"{index:02d}.png")
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), root / "vit.pth")
    return root


def config(world, output, **options):
    from u2seg.engine.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "stego_quick.yaml"))
    for node in (cfg.U2SEG.FEATURES, cfg.U2SEG.STUFF.FEATURES):
        node.ARGS.vit.model, node.ARGS.vit.weights = "vit_tiny_patch16_224", str(world / "vit.pth")
        node.ARGS.vit.size = 64
    cfg.U2SEG.NUM_STUFF, cfg.MODEL.DEVICE = 5, "cpu"
    cfg.STEGO.IMAGES, cfg.STEGO.CACHE, cfg.OUTPUT_DIR = str(world / "photos"), str(world / "cache"), str(output)
    cfg.STEGO.CODE_DIM, cfg.STEGO.POINTS, cfg.STEGO.NUM_RANDOM = 8, 4, 2
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 4, 4, 2
    cfg.merge_from_list([str(part) for pair in options.items() for part in pair] if options else [])
    Path(output).mkdir(exist_ok=True, parents=True)
    return cfg


def train(cfg, resume=False, stop=None):
    """Train as tools/train_net.py does; with ``stop``, as if it were killed after so many steps."""
    from detectron2.engine import TrainerBase

    from u2seg.stego.trainer import StuffTrainer

    torch.manual_seed(int(resume))  # what a resumed run draws before it has loaded must not matter
    trainer = StuffTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    TrainerBase.train(trainer, trainer.start_iter, stop or trainer.max_iter)
    return trainer.model


def test_a_resumed_run_ends_as_an_unbroken_one(world, tmp_path):
    whole = train(config(world, tmp_path / "whole"))
    half = config(world, tmp_path / "half")
    train(half, stop=2)
    resumed = train(half, resume=True)
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_checkpoint_of_a_run_labels_stuff_through_its_own_features(world, tmp_path):
    from u2seg.config import plain
    from u2seg.stego.crops import frozen_network
    from u2seg.stego.segmenter import StegoStuff

    cfg = config(world, tmp_path / "run")
    train(cfg)
    node = plain(cfg.U2SEG)["STUFF"]["FEATURES"]
    segmenter = StegoStuff(
        num_classes=5, checkpoint=str(tmp_path / "run" / "stuff_final.pth"), features=node, flip=True
    )
    image = np.asarray(Image.open(world / "photos" / "03.png"))
    found = segmenter.segment(image, frozen_network(cfg).extract([image])[0])
    assert found.shape == (5, 4, 4)
    assert found.sum(axis=0) == pytest.approx(np.ones((4, 4)), abs=1e-5)
    node["ARGS"]["vit"]["layer"] = 3
    with pytest.raises(UsageError, match="layer 3 instead of 8"):
        StegoStuff(num_classes=5, checkpoint=str(tmp_path / "run" / "stuff_final.pth"), features=node)


def test_without_a_cache_of_features_a_step_is_the_same_to_half_precision(world, tmp_path):
    from u2seg.stego.crops import build_crops
    from u2seg.stego.model import STEGO

    cached, fresh = config(world, tmp_path / "a"), config(world, tmp_path / "b")
    fresh.STEGO.CACHE_FEATURES = False
    torch.manual_seed(0)
    model = STEGO(cached).eval()
    features = [model.features_of([build_crops(cfg).sample(place) for place in (0, 7, 33)]) for cfg in (cached, fresh)]
    assert torch.allclose(*features, atol=5e-3, rtol=5e-3)


def test_a_run_with_a_labelled_set_is_scored_on_it(world, tmp_path):
    """Stuff is refined and scored as the label factory would label it."""
    from u2seg.panoptic import read_panoptic
    from u2seg.pseudo.parts import Part
    from u2seg.stego.crops import frozen_network
    from u2seg.stego.evaluation import score_segmenter
    from u2seg.stego.segmenter import StegoStuff
    from u2seg.stego.trainer import StuffTrainer

    root = write_dataset(tmp_path / "labels", num_things=1, num_stuff=1)
    cfg = config(world, tmp_path / "run")
    cfg.DATASETS.TEST = (str(root),)
    StuffTrainer.complete_config(cfg)
    model = train(cfg)
    (scores,) = StuffTrainer.test(cfg, model).values()
    segmenter = StegoStuff(num_classes=5, checkpoint=str(tmp_path / "run" / "stuff_final.pth"))
    refiner = Part.from_config("refiner", cfg.U2SEG.REFINE).build()
    assert scores == score_segmenter(segmenter, frozen_network(cfg), refiner, read_panoptic(root))


def test_chosen_shifts_are_kept_in_the_state(world, tmp_path):
    from u2seg.stego.trainer import StuffTrainer

    cfg = config(world, tmp_path / "run")
    trainer = StuffTrainer(cfg)
    before = trainer.model.shifts.clone()
    trainer.resume_or_load(resume=False)
    assert not torch.equal(trainer.model.shifts, before)
    assert (tmp_path / "run" / "shifts.json").is_file()
    assert "shifts" in trainer.model.state_dict()


def test_decay_and_clipping_of_the_solver_are_honoured(world, tmp_path):
    from u2seg.stego.trainer import StuffTrainer

    cfg = config(world, tmp_path, **{"SOLVER.WEIGHT_DECAY": 0.25})
    cfg.SOLVER.CLIP_GRADIENTS.merge_from_list(["ENABLED", True, "CLIP_TYPE", "norm", "CLIP_VALUE", 0.01])
    trainer = StuffTrainer(cfg)
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.25}
    learnt = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert learnt.pop(id(trainer.model.probe.centres)) == cfg.STEGO.PROBE_LR
    assert set(learnt.values()) == {cfg.SOLVER.BASE_LR}
    weight = trainer.model.head.linear.weight
    weight.grad = torch.ones_like(weight)
    trainer.optimizer.step()
    assert float(weight.grad.norm()) == pytest.approx(0.01, rel=1e-4)


def test_the_frozen_network_is_no_part_of_the_model(world, tmp_path):
    from u2seg.stego.model import STEGO

    model = STEGO(config(world, tmp_path / "run"))
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000
    assert not any("blocks" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("STEGO.IMAGES", "", "STEGO.IMAGES is empty"),
        ("STEGO.NUM_NEIGHBOURS", 60, "60 crops are too few for 60 neighbours"),
        ("SOLVER.IMS_PER_BATCH", 64, "more than the 60 crops"),
        ("STEGO.MIN_CROP", 100, "none of 12 photos can be used"),
    ],
)
def test_bad_input_ends_in_one_line(world, tmp_path, option, value, words):
    from u2seg.stego.crops import build_crop_loader

    cfg = config(world, tmp_path / "run", **{option: value})
    with pytest.raises((UsageError, DataError), match=words) as caught:
        build_crop_loader(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("leaf", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_shipped_configs_load(leaf):
    from u2seg.engine.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / leaf))
    assert cfg.MODEL.META_ARCHITECTURE == "STEGO"
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.CLIP_GRADIENTS.ENABLED) == (0, False)  # as the official code
    assert len((CONFIGS / leaf).read_text().splitlines()) <= 25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_and_gradients_in_mixed_precision_are_those_of_full_precision(world, tmp_path, dtype):
    """The autocast of ``SOLVER.AMP``, on a CPU."""
    from u2seg.stego.trainer import StuffTrainer

    trainer = StuffTrainer(config(world, tmp_path))
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
