"""The stuff heads are reached through the same config, trainer and plugin doors as everything else."""

from pathlib import Path

import pytest

from u2seg.plugins.registry import load_plugins

CONFIGS = Path(__file__).parents[2] / "configs" / "STEGO"


@pytest.mark.parametrize("name", ["stego_quick.yaml", "cause_quick.yaml"])
def test_train_net_takes_their_own_trainer(name):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.engine.config import load_config
    from u2seg.engine.run import trainer_class

    assert trainer_class(load_config(str(CONFIGS / name))).__name__ == "StuffTrainer"
    assert trainer_class(load_config()).__name__ == "Trainer"


def test_both_can_be_named_by_the_label_factory():
    assert {"stego", "cause"} <= load_plugins([], "").offers["stuff segmenter"].keys()
