"""tools/train_net.py as a module, and what calling it with arguments gives."""

import functools
import importlib.util
from pathlib import Path

from synthetic_panoptic import TINY_CONFIG

from u2seg.runtime import run_tool

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"
_spec = importlib.util.spec_from_file_location("train_net_tool", TOOL)
train_net = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(train_net)


def arguments(options, *flags, config=TINY_CONFIG):
    command = ["--num-gpus", "0", "--config-file", str(config), *flags, *options]
    return train_net.argument_parser().parse_args(command)


def setup(options, *flags, config=TINY_CONFIG):
    """The config of a run in this process."""
    return train_net.setup(arguments(options, *flags, config=config))


def exit_code(options, *flags, config=TINY_CONFIG):
    """What the tool ends with."""
    args = arguments(options, *flags, config=config)
    return run_tool(functools.partial(train_net.run, args))
