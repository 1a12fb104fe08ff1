#!/usr/bin/env python
"""Train a universal segmentation model on labels, or score one on human labels.

A dataset is named by its directory, as tools/generate_pseudo.py and datasets/prepare_*.py make it. Config keys follow
the options as KEY VALUE pairs: DATASETS.TRAIN, OUTPUT_DIR, MODEL.WEIGHTS, SOLVER.MAX_ITER, ... docs/train.md explains
recipes, keys and limits.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from u2seg.runtime import run_tool
from u2seg.tool import LEAKS, ToolParser, quiet

if TYPE_CHECKING:
    import argparse

    from fvcore.common.config import CfgNode

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

Losses show every few seconds; OUTPUT_DIR/log.txt and metrics.json keep all of them. Ctrl-C or SIGTERM stops, a second
Ctrl-C at once. Exit codes: 0 done, 1 the system failed, 2 something given can't be used, 130 Ctrl-C, 143 SIGTERM.
"""
FIRST_PORT, PORTS = 49152, 2**14
"""Of processes of one machine; each user has another by default."""


def argument_parser() -> ToolParser:
    """The arguments of Detectron2's training tools, without importing it."""
    parser = ToolParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add(
        "--config-file",
        default="",
        metavar="YAML",
        help="recipe to train by (required), such as those in configs/COCO-PanopticSegmentation",
    )
    add("--resume", action="store_true", help="resume from the last checkpoint of OUTPUT_DIR, if there is one")
    add(
        "--eval-only",
        action="store_true",
        help="score MODEL.WEIGHTS (with --resume: the last checkpoint) on DATASETS.TEST; train nothing",
    )
    add(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs of this machine; on one without GPUs, processes on the CPU (default: %(default)s)",
    )
    add("--num-machines", type=int, default=1, metavar="N", help="machines (default: %(default)s)")
    add("--machine-rank", type=int, default=0, metavar="N", help="which of them this is, from 0 (default: %(default)s)")
    port = FIRST_PORT + hash(os.getuid() if hasattr(os, "getuid") else 1) % PORTS
    add(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        metavar="URL",
        help="where processes meet: tcp://HOST:PORT of the first machine, or auto (default: %(default)s)",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys over those of the YAML")
    return parser


def register_detectron2() -> None:
    """Let plugins register their models, mappers and trainers."""
    from u2seg.plugins import registry

    registry.register_detectron2()


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this process, with datasets registered, class counts known and logging set up."""
    import torch
    from detectron2.utils import comm

    from u2seg.engine.config import check_names, fit_to_devices, load_config
    from u2seg.engine.console import set_up_logging, set_up_run
    from u2seg.engine.trainer import trainer_class
    from u2seg.files import claim_directory

    register_detectron2()
    cfg = load_config(args.config_file, args.opts)
    check_names(cfg)
    if comm.is_main_process():  # which sweeps half-written files: the others' markers would be among them
        claim_directory(cfg.OUTPUT_DIR, "a training run", option="OUTPUT_DIR")
    comm.synchronize()
    set_up_logging(cfg.OUTPUT_DIR)
    has_gpu = args.num_gpus > 0 and torch.cuda.is_available()
    fit_to_devices(cfg, comm.get_world_size(), has_gpu, training=not args.eval_only)
    trainer_class(cfg).complete_config(cfg, args.eval_only, args.resume)
    cfg.freeze()
    set_up_run(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> Any:
    """What each process does."""
    from u2seg.engine.console import RegularLines
    from u2seg.engine.trainer import trainer_class

    cfg = setup(args)
    if args.eval_only:
        return trainer_class(cfg).evaluate(cfg)
    trainer = trainer_class(cfg)(cfg)
    trainer.register_hooks([RegularLines()])
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args: argparse.Namespace) -> None:
    """Call `main` in each process of this machine."""
    from u2seg.errors import UsageError

    if not args.config_file:
        raise UsageError("--config-file is missing: name a recipe, such as those in configs/; see --help")
    os.environ.setdefault("PYTHONWARNINGS", LEAKS)
    from detectron2.engine import launch

    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))


if __name__ == "__mp_main__":  # one of several processes, of which the first says how all of them ended
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    quiet()
if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    resume = "run the same command with --resume to resume from the last checkpoint"
    sys.exit(run_tool(functools.partial(run, arguments), resume=resume))
