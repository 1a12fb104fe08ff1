"""tools/train_net.py from its arguments on: it learns, resumes exactly, and fails in one line."""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import default_argument_parser
from PIL import Image
from synthetic_panoptic import TINY_CONFIG as CONFIG
from synthetic_panoptic import read_json, write_dataset, write_json

from u2seg.engine import run as run_module
from u2seg.engine.run import run, setup
from u2seg.engine.trainer import Trainer
from u2seg.errors import DataError

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No plugins, and no complaint of loggers that hold an earlier test's standard output."""
    monkeypatch.setattr(run_module, "register_detectron2", lambda: None)
    monkeypatch.setattr(logging, "raiseExceptions", False)


def tool_main():
    spec = importlib.util.spec_from_file_location("train_net_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def arguments(options, *flags, config=CONFIG):
    return default_argument_parser().parse_args(["--num-gpus", "0", "--config-file", str(config), *flags, *options])


def train(options, *flags):
    code = run(tool_main(), arguments(options, *flags))
    assert code == 0


def history(output):
    """Losses of each step of a run."""
    steps = {}
    for line in (Path(output) / "metrics.json").read_text().splitlines():
        entry = json.loads(line)
        steps[entry["iteration"]] = {key: value for key, value in entry.items() if "loss" in key}
    return steps


class EveryStep(Trainer):
    """Notes the losses of each step."""

    def run_step(self):
        super().run_step()
        latest = self.storage.latest()
        self.noted = getattr(self, "noted", [])
        self.noted.append({key: value for key, (value, step) in latest.items() if "loss" in key and step == self.iter})


def losses(options, steps, resume=False, total=6):
    cfg = setup(arguments([*options, "SOLVER.MAX_ITER", str(total), "SOLVER.CHECKPOINT_PERIOD", "3"]))
    trainer = EveryStep(cfg)
    trainer.resume_or_load(resume)
    start = trainer.start_iter
    trainer.max_iter = start + steps
    trainer.train()
    return trainer.noted


@pytest.mark.parametrize("seed", [0, -1])
def test_resume_gives_the_losses_of_an_unbroken_run(options, seed, tmp_path):
    options = [*options, "SEED", str(seed), "INPUT.MIN_SIZE_TRAIN", "(48, 64)"]
    unbroken = losses(options, 6)
    if seed < 0:
        # the drawn seed is in the checkpoint, so go on from the unbroken run's own
        (tmp_path / "out" / "last_checkpoint").write_text("model_0000002.pth")
        assert losses(options, 3, resume=True) == unbroken[3:]
        return
    options[options.index("OUTPUT_DIR") + 1] = str(tmp_path / "again")
    first = losses(options, 3)
    assert first == unbroken[:3]
    torch.manual_seed(999)
    np.random.seed(999)
    assert losses(options, 3, resume=True) == unbroken[3:]


def test_the_tool_trains_and_goes_on(options, tmp_path, capsys):
    train(options)
    out = tmp_path / "out"
    assert (out / "model_final.pth").is_file()
    assert (out / "config.yaml").is_file()
    assert not list(out.glob("*.tmp"))
    train([*options, "SOLVER.MAX_ITER", "3"], "--resume")
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 2


def test_counts_come_from_the_checkpoint_where_there_is_no_dataset(options, tmp_path):
    train(options)
    weights = ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "eval")]
    cfg = setup(arguments([*weights, "DATASETS.TEST", options[1]], "--eval-only"))
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (3, 3)


def test_a_nan_names_its_photo(options, tmp_path, monkeypatch):
    cfg = setup(arguments([*options, "INPUT.RANDOM_FLIP", "none"]))
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    losses_of = trainer.model.sem_seg_head.losses

    def spoil(predictions, targets):
        found = losses_of(predictions, targets)
        # photos have 4 void columns at the left; the photo that was made to have none is the culprit
        bad = (targets[:, :48, :64] != 255).all(dim=(1, 2)).any()
        return {key: value * float("nan") if bad else value for key, value in found.items()}

    root = Path(options[1])
    png = np.array(Image.open(root / "panoptic" / "3.png"))
    png[:, :4] = png[0, 8]
    Image.fromarray(png).save(root / "panoptic" / "3.png")
    trainer.model.sem_seg_head.losses = spoil
    trainer.max_iter = 4
    with pytest.raises(DataError, match=r"loss_sem_seg became NaN or infinite, at iteration \d, on photo .*/3\.png$"):
        trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert len(before)


def test_batch_learning_rate_and_schedule_follow_the_processes(options, monkeypatch):
    from detectron2.utils import comm

    more = ["SOLVER.REFERENCE_WORLD_SIZE", "4", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.STEPS", "(1,)"]
    cfg = setup(arguments([*options, *more]))
    told = []
    monkeypatch.setattr("u2seg.engine.trainer.logger.info", lambda message, *values: told.append(message % values))
    scaled = Trainer.auto_scale_workers(cfg, 1)
    Trainer.auto_scale_workers(scaled, 1)
    assert len(told) == 1
    for part in ("1 process where", "IMS_PER_BATCH 8 -> 2", "BASE_LR 0.001 -> 0.00025", "MAX_ITER 2 -> 8"):
        assert part in told[0]
    assert "SOLVER.STEPS (1,) -> (4,)" in told[0]
    assert scaled.SOLVER.IMS_PER_BATCH == 2
    assert scaled.SOLVER.BASE_LR == cfg.SOLVER.BASE_LR / 4
    assert scaled.SOLVER.MAX_ITER == cfg.SOLVER.MAX_ITER * 4
    assert comm.get_world_size() == 1


def fails(options, capsys, *flags, config=CONFIG):
    code = run(tool_main(), arguments(options, *flags, config=config))
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert error[-1].startswith("error: ")
    assert not any("Traceback" in line for line in error), error
    assert "Traceback" not in error[-1]
    assert "Caught" not in error[-1]
    return error[-1]


def drop_label(root):
    for path in (root / "panoptic").iterdir():
        path.unlink()


def shrink_label(root):
    for path in (root / "panoptic").iterdir():
        Image.open(path).resize((10, 10)).save(path)


def empty_segments(root):
    content = read_json(root)
    write_json(root, content | {"annotations": [a | {"segments_info": []} for a in content["annotations"]]})


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (None, ["DATASETS.TRAIN", "no/such"], "does not exist"),
        (None, ["MODEL.ROI_HEADS.NUM_CLASSES", "300"], "has 3 thing categories"),
        (None, ["MODEL.WEIGHTS", "no/such.pth"], "do not exist"),
        (None, ["SOLVER.IMS_PER_BATCH", "3", "SOLVER.REFERENCE_WORLD_SIZE", "2"], "no multiple"),
        (None, ["SOLVER.NO_SUCH", "3"], "no config key"),
        (None, ["INPUT.DATASET_MAPPER_NAME", "Other"], "no dataset mapper"),
        (drop_label, [], "does not exist"),
        (drop_label, ["DATALOADER.NUM_WORKERS", "1"], "does not exist"),
        (shrink_label, [], "has 10 x 10 pixels"),
        (empty_segments, [], "none with a segment"),
        (lambda root: write_json(root, read_json(root) | {"annotations": []}), [], "is empty"),
        (lambda root: write_json(root, {}), [], "is no COCO panoptic file"),
    ],
)
def test_bad_input_ends_in_one_line(options, labels, capsys, change, more, words):
    if change:
        change(labels)
    assert words in fails([*options, *more], capsys)


def test_checkpoints_that_do_not_fit_end_in_one_line(options, tmp_path, capsys):
    train(options)
    weights = tmp_path / "out" / "model_final.pth"
    other = write_dataset(tmp_path / "other", num_things=4)
    assert "made for 3 thing classes, but the model has 4" in fails(
        [*options, "DATASETS.TRAIN", str(other), "MODEL.WEIGHTS", str(weights)], capsys
    )
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "damaged" in fails([*options, "SOLVER.MAX_ITER", "4"], capsys, "--resume")
    assert "DATASETS.TEST is empty" in fails(
        [*options, "MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"], capsys, "--eval-only"
    )
    assert "number of classes is unknown" in fails(options, capsys, "--eval-only")


@pytest.mark.parametrize("mixed", [False, True])
def test_loss_goes_down(options, labels, mixed, monkeypatch):
    monkeypatch.setattr("u2seg.engine.config.cpu_has_bfloat16", lambda: True)  # slower where it is not so, but the same
    options = [*options, "SOLVER.BASE_LR", "0.01", "SOLVER.WARMUP_ITERS", "0", "SOLVER.AMP.ENABLED", str(mixed)]
    noted = losses(options, 12, total=12)
    total = [sum(value for key, value in step.items() if key != "total_loss") for step in noted]
    assert np.mean(total[-3:]) < 0.8 * np.mean(total[:2])


@pytest.mark.slow
def test_two_processes_learn_what_one_does(labels, tmp_path):
    """Without GPUs, --num-gpus 2 runs two CPU processes over gloo, with a batch norm that is synchronised."""
    if torch.cuda.is_available():
        pytest.skip("on a machine with GPUs, --num-gpus 2 means GPUs")
    more = ["SOLVER.MAX_ITER", "20", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.REFERENCE_WORLD_SIZE", "0"]
    for processes in (1, 2):
        out = tmp_path / str(processes)
        command = [sys.executable, str(TOOL), "--num-gpus", str(processes), "--config-file", str(CONFIG)]
        command += ["--dist-url", "auto", "DATASETS.TRAIN", str(labels), "OUTPUT_DIR", str(out), *more]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    single, double = (history(tmp_path / name) for name in "12")
    assert single.keys() == double.keys()
    for step, values in single.items():
        assert double[step]["total_loss"] == pytest.approx(values["total_loss"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["instant", "training_acc"])
def test_quick_schedules(tmp_path, config):
    """Their expected results are checked by the run itself."""
    drawings = str(write_dataset(tmp_path / "drawings", photos=12))
    path = CONFIG.with_name(f"u2seg_R18_{config}_test.yaml")
    options = ["DATASETS.TRAIN", drawings, "DATASETS.TEST", drawings, "OUTPUT_DIR", str(tmp_path / "out")]
    assert run(tool_main(), arguments(options, config=path)) == 0


@pytest.mark.slow
@pytest.mark.data
def test_loss_goes_down_on_real_photos(labelled_photos, tmp_path):
    recipe = CONFIG.parents[1] / "COCO-PanopticSegmentation" / "u2seg_R18_small.yaml"
    options = ["DATASETS.TRAIN", str(labelled_photos), "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "30"]
    options += ["INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MAX_SIZE_TRAIN", "192", "DATALOADER.NUM_WORKERS", "0"]
    options += ["SOLVER.WARMUP_ITERS", "10", "TEST.PRECISE_BN.ENABLED", "False"]
    trainer = EveryStep(setup(arguments(options, config=recipe)))
    trainer.resume_or_load(False)
    trainer.train()
    total = [step["total_loss"] for step in trainer.noted]
    assert np.mean(total[-5:]) < 0.7 * np.mean(total[:3])
