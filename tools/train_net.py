#!/usr/bin/env python
"""Train a universal segmentation model, or score one on human labels.

A dataset is named by its directory, as tools/generate_pseudo.py and datasets/prepare_*.py make it. Config keys follow
the options as KEY VALUE pairs. docs/train.md has recipes, keys and limits.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode

from u2seg.engine.config import fit_to_devices, load_config
from u2seg.engine.trainer import trainer_class
from u2seg.files import claim_directory
from u2seg.plugins.registry import register_detectron2
from u2seg.runtime import run_tool

EXAMPLES = """
examples:

  train on your labels; on a machine without GPUs, --num-gpus 0 trains on the CPU
    python tools/train_net.py --num-gpus 1 --config-file configs/COCO-PanopticSegmentation/u2seg_R18_small.yaml \\
        DATASETS.TRAIN my_labels OUTPUT_DIR output/model
  resume after a stop: the same command and --resume
  score the last checkpoint of a training, or any weights
    python tools/train_net.py ... --eval-only --resume DATASETS.TEST human_labels OUTPUT_DIR output/model
    python tools/train_net.py ... --eval-only MODEL.WEIGHTS model_final.pth DATASETS.TEST human_labels
  the paper's recipe on two machines
    python tools/train_net.py --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT \\
        --config-file configs/COCO-PanopticSegmentation/u2seg_R50_300.yaml DATASETS.TRAIN my_labels
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, explained for this tool."""
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.description = __doc__
    helps = {
        "config_file": "recipe to train by (required), such as those in configs/COCO-PanopticSegmentation",
        "resume": "resume from the last checkpoint of OUTPUT_DIR, if there is one",
        "eval_only": "score MODEL.WEIGHTS (with --resume: the last checkpoint) on DATASETS.TEST; train nothing",
        "num_gpus": "GPUs of this machine; on one without GPUs, processes on the CPU (default: %(default)s)",
        "opts": "config keys to override, as KEY VALUE pairs",
    }
    for action in parser._actions:
        action.help = helps.get(action.dest, action.help)
        action.required = action.required or action.dest == "config_file"
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this process, with datasets registered, class counts known and logging set up."""
    register_detectron2()
    cfg = load_config(args.config_file, args.opts)
    claim_directory(cfg.OUTPUT_DIR, "a training run", option="OUTPUT_DIR")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="u2seg")
    has_gpu = args.num_gpus > 0 and torch.cuda.is_available()
    fit_to_devices(cfg, comm.get_world_size(), has_gpu, training=not args.eval_only)
    trainer_class(cfg).complete_config(cfg, args.eval_only, args.resume)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> Any:
    """What each process does."""
    cfg = setup(args)
    if args.eval_only:
        return trainer_class(cfg).evaluate(cfg)
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = argument_parser().parse_args()
    run = functools.partial(launch, main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))
    raise SystemExit(run_tool(run, resume="run the same command with --resume to resume from the last checkpoint"))
