"""STEGO is reached through the same config, trainer and plugin doors as everything else."""

import subprocess
import sys
from pathlib import Path

import pytest

from u2seg.plugins.registry import load_plugins, register_detectron2

CONFIGS = Path(__file__).parents[2] / "configs" / "STEGO"


def test_the_config_names_the_trainer():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.engine.config import load_config
    from u2seg.engine.trainer import trainer_class
    from u2seg.errors import UsageError

    register_detectron2()
    assert trainer_class(load_config(str(CONFIGS / "stego_quick.yaml"))).__name__ == "StuffTrainer"
    assert trainer_class(load_config()).__name__ == "Trainer"
    with pytest.raises(UsageError, match=r"no trainer .* Did you mean 'StuffTrainer'"):
        trainer_class(load_config(options=["SOLVER.TRAINER_NAME", "StufTrainer"]))


def test_the_label_factory_knows_it_and_needs_no_detectron2():
    assert load_plugins([], "").offer("stuff segmenter", "stego")
    code = "import sys, u2seg.stego.segmenter, u2seg.stego.head; sys.exit('detectron2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("STEGO.CROP_RATIO", "1.5", "STEGO.CROP_RATIO must be from 0.01 to 1, not 1.5"),
        ("STEGO.NUM_NEIGHBOURS", "0", "STEGO.NUM_NEIGHBOURS must be 1 or more"),
        ("STEGO.CENTRING", "rows", "no STEGO.CENTRING named 'rows'"),
    ],
)
def test_keys_out_of_bounds_are_told(key, value, words):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.engine.config import load_config
    from u2seg.errors import UsageError

    with pytest.raises(UsageError, match=words):
        load_config(str(CONFIGS / "stego_quick.yaml"), [key, value])
