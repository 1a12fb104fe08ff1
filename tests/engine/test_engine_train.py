"""tools/train_net.py from its arguments on: it learns, resumes exactly, and fails in one line."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_panoptic import QUICK_CONFIG, read_json, write_dataset, write_json
from synthetic_panoptic import TINY_CONFIG as CONFIG
from training_tool import TOOL, exit_code, setup, train_net

from u2seg.engine.output_dir import last_checkpoint
from u2seg.engine.trainer import Trainer
from u2seg.errors import DataError
from u2seg.files import claim_directory

CONFIGS = QUICK_CONFIG.parents[1]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No plugins, and no complaint of loggers that hold an earlier test's standard output."""
    monkeypatch.setattr(train_net, "register_detectron2", lambda: None)
    monkeypatch.setattr(logging, "raiseExceptions", False)


def train(options, *flags):
    assert exit_code(options, *flags) == 0


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
    cfg = setup([*options, "SOLVER.MAX_ITER", str(total), "SOLVER.CHECKPOINT_PERIOD", "3"])
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
    cfg = setup([*weights, "DATASETS.TEST", options[1]], "--eval-only")
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (3, 3)


def test_a_nan_names_its_photo(options, tmp_path, monkeypatch):
    cfg = setup([*options, "INPUT.RANDOM_FLIP", "none"])
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


def test_batch_learning_rate_and_schedule_follow_the_processes(options):
    more = ["SOLVER.REFERENCE_WORLD_SIZE", "4", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.STEPS", "(1,)"]
    cfg = setup([*options, *more])
    scaled = Trainer(cfg).cfg
    assert scaled.SOLVER.IMS_PER_BATCH == 2
    assert scaled.SOLVER.BASE_LR == cfg.SOLVER.BASE_LR / 4
    assert scaled.SOLVER.MAX_ITER == cfg.SOLVER.MAX_ITER * 4


def fails(options, capsys, *flags, config=CONFIG):
    code = exit_code(options, *flags, config=config)
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert ": error: " in error[-1]
    assert not any("Traceback" in line for line in error), error
    assert "Traceback" not in error[-1]
    assert "Caught" not in error[-1]
    return error[-1]


@pytest.mark.parametrize(
    ("key", "name", "nearest"),
    [
        ("META_ARCHITECTURE", "U2SegPanopticFP", "U2SegPanopticFPN"),
        ("BACKBONE.NAME", "build_resnet_fpn_backbon", "build_resnet_fpn_backbone"),
        ("ROI_HEADS.NAME", "CascadeROIHead", "CascadeROIHeads"),
        ("SEM_SEG_HEAD.NAME", "SemSegFPN", "SemSegFPNHead"),
    ],
)
def test_a_misspelt_part_is_one_line_with_the_nearest_name(options, capsys, tmp_path, key, name, nearest):
    error = fails([*options, f"MODEL.{key}", name], capsys)
    assert f"(MODEL.{key}) named {name!r}. Did you mean {nearest!r}?" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_evaluation_that_is_told_to_stop_ends_cleanly(options, capsys, tmp_path, monkeypatch, number, code):
    train(options)

    def stopped(cfg, model):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(Trainer, "test", stopped)
    words = ["DATASETS.TEST", options[1], "OUTPUT_DIR", str(tmp_path / "out")]
    assert exit_code(words, "--eval-only", "--resume") == code
    assert "Traceback" not in capsys.readouterr().err


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
        (None, ["INPUT.DATASET_MAPPER_NAME", "U2SegDatasetMaper"], "Did you mean 'U2SegDatasetMapper'"),
        (None, ["SOLVER.TRAINER_NAME", "Trainr"], "Did you mean 'Trainer'"),
        (None, ["DATASETS.TRAIN", "coco_2017_train_panoptic"], "datasets/prepare_coco.py"),
        (drop_label, [], "there is no file"),
        (drop_label, ["DATALOADER.NUM_WORKERS", "1"], "there is no file"),
        (shrink_label, [], "has 10 x 10 pixels"),
        (empty_segments, [], "none with a segment"),
        (lambda root: write_json(root, read_json(root) | {"annotations": []}), [], "0 photos, but none with a segment"),
        (lambda root: write_json(root, {}), [], "is no COCO panoptic JSON"),
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


def test_scoring_wants_a_trained_model_and_a_labelled_set(options, labels, tmp_path, capsys):
    counts = ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    test = [*options, *counts, "DATASETS.TEST", str(labels)]
    assert "--eval-only needs DATASETS.TEST" in fails([*options, *counts], capsys, "--eval-only")
    assert "--eval-only needs a trained model" in fails(test, capsys, "--eval-only")
    assert "--eval-only needs a trained model" in fails(test, capsys, "--eval-only", "--resume")
    torch.save({"model": {"sem_seg_head.predictor.bias": torch.zeros(3)}}, tmp_path / "part.pth")
    part = [*test, "MODEL.WEIGHTS", str(tmp_path / "part.pth")]
    assert "are no trained model of this config" in fails(part, capsys, "--eval-only")
    assert "number of classes is unknown" in fails([*part, *zeros(counts)], capsys, "--eval-only")


def zeros(pairs):
    return [part if "." in part else "0" for part in pairs]


def test_resume_scores_the_last_checkpoint(options, labels, tmp_path):
    train(options)
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    (tmp_path / "out" / "model_final.pth").rename(tmp_path / "out" / "model_0000001.pth")
    of_training = (tmp_path / "out" / "config.yaml").read_bytes()
    cfg = setup([*options, "DATASETS.TEST", str(labels)], "--eval-only", "--resume")
    assert (tmp_path / "out" / "config.yaml").read_bytes() == of_training
    assert cfg.MODEL.WEIGHTS == last_checkpoint(tmp_path / "out") == str(tmp_path / "out" / "model_0000001.pth")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    test = [
        *options,
        "DATASETS.TEST",
        str(labels),
        "TEST.MATCHING.STUFF",
        "category",
    ]  # all stuff has one supercategory
    assert exit_code(test, "--eval-only", "--resume") == 0


def test_nothing_of_the_users_is_overwritten(options, labels, tmp_path, capsys):
    assert "files that u2seg did not write" in fails([*options, "OUTPUT_DIR", str(labels)], capsys)
    claim_directory(tmp_path / "pseudo", "labels")
    assert "holds labels" in fails([*options, "OUTPUT_DIR", str(tmp_path / "pseudo")], capsys)


def test_only_the_forward_pass_is_in_mixed_precision(options, monkeypatch):
    monkeypatch.setattr("u2seg.engine.config.cpu_has_bfloat16", lambda: True)
    trainer = Trainer(setup([*options, "SOLVER.AMP.ENABLED", "True"]))
    trainer.resume_or_load(False)
    seen = {"forward": set(), "backward": set(), "step": set()}

    def note(name):
        seen[name].add(torch.is_autocast_enabled("cpu"))

    bias = trainer.model.sem_seg_head.predictor.bias
    trainer.model.sem_seg_head.register_forward_hook(lambda *_: note("forward"))
    bias.register_hook(lambda gradient: note("backward"))
    trainer.optimizer.register_step_pre_hook(lambda *_: note("step"))
    trainer.train()
    assert seen == {"forward": {True}, "backward": {False}, "step": {False}}


NAN_ON_ONE_RANK = """
import functools, sys
from detectron2.engine import launch
from detectron2.utils import comm
from u2seg.engine.trainer import trainer_class
from u2seg.runtime import run_tool
sys.path.insert(0, {folder!r})
import train_net

def main(args, kind):
    cfg = train_net.setup(args)
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(False)
    head = trainer.model.module.sem_seg_head
    losses = head.losses
    def spoil(predictions, targets):
        if comm.get_rank() == 1 and kind == "forward":
            raise FloatingPointError("Predicted boxes contain Inf/NaN")
        factor = float("nan") if comm.get_rank() == 1 else 1.0
        return {{key: value * factor for key, value in losses(predictions, targets).items()}}
    head.losses = spoil
    try:
        trainer.train()
    except Exception as error:
        print(f"rank {{comm.get_rank()}}: {{error}}\\n", end="", flush=True)  # one write: the other process prints too
        raise

if __name__ == "__main__":
    args = train_net.argument_parser().parse_args(sys.argv[2:])
    raise SystemExit(run_tool(functools.partial(launch, main, 2, dist_url="auto", args=(args, sys.argv[1]))))
"""


@pytest.mark.parametrize(
    ("kind", "words"),
    [("loss", "loss_sem_seg became NaN"), pytest.param("forward", "Inf/NaN", marks=pytest.mark.slow)],
)
def test_a_nan_in_one_process_stops_all_with_one_error(options, tmp_path, kind, words):
    if torch.cuda.is_available():
        pytest.skip("on a machine with GPUs, two processes mean two GPUs")
    script = tmp_path / "nan_on_one_rank.py"
    script.write_text(NAN_ON_ONE_RANK.format(folder=str(TOOL.parent)))
    command = [sys.executable, str(script), kind, "--config-file", str(CONFIG), *options]
    more = ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.REFERENCE_WORLD_SIZE", "0"]
    start = time.monotonic()
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert time.monotonic() - start < 100
    lines = [line.partition(": ") for line in done.stdout.splitlines() if line.startswith("rank ")]
    assert sorted(line[0] for line in lines) == ["rank 0", "rank 1"]
    assert len({line[2] for line in lines}) == 1
    assert words in lines[0][2]
    assert lines[0][2].count(".png") == 2  # the two photos of the process that broke
    assert done.stderr.splitlines()[-1].endswith(f"error: {lines[0][2]}")


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
    path = CONFIGS / "quick_schedules" / f"u2seg_R18_{config}_test.yaml"
    options = ["DATASETS.TRAIN", drawings, "DATASETS.TEST", drawings, "OUTPUT_DIR", str(tmp_path / "out")]
    assert exit_code(options, config=path) == 0


@pytest.mark.slow
@pytest.mark.data
def test_loss_goes_down_on_real_photos(labelled_photos, tmp_path):
    recipe = CONFIGS / "COCO-PanopticSegmentation" / "u2seg_R18_small.yaml"
    options = ["DATASETS.TRAIN", str(labelled_photos), "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "30"]
    options += ["INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MAX_SIZE_TRAIN", "192", "DATALOADER.NUM_WORKERS", "0"]
    options += ["SOLVER.WARMUP_ITERS", "10", "TEST.PRECISE_BN.ENABLED", "False"]
    trainer = EveryStep(setup(options, config=recipe))
    trainer.resume_or_load(False)
    trainer.train()
    total = [step["total_loss"] for step in trainer.noted]
    assert np.mean(total[-5:]) < 0.7 * np.mean(total[:3])
