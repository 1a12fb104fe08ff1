"""Setting up a run of tools/train_net.py, and ending it in one clear line when something is wrong."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from u2seg.data.datasets import register_datasets, set_class_counts
from u2seg.engine.checkpoint import U2SegCheckpointer
from u2seg.engine.config import fit_to_devices, load_config
from u2seg.engine.trainer import trainer_class
from u2seg.engine.weights import class_counts, local_file, read_checkpoint
from u2seg.errors import U2SegError, UsageError
from u2seg.plugins.registry import register_detectron2

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

FAILED, INTERRUPTED = 2, 130
_OURS = f"{U2SegError.__module__}."


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this process: datasets registered, class counts known, logging on.

    Raises:
        U2SegError: something that the user gave can't be taken.
    """
    register_detectron2()
    cfg = load_config(args.config_file, args.opts)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="u2seg")
    logging.getLogger("detectron2.engine.train_loop").addFilter(_has_traceback_to_show)
    has_gpu = args.num_gpus > 0 and torch.cuda.is_available()
    fit_to_devices(cfg, comm.get_world_size(), has_gpu, training=not args.eval_only)
    register_datasets(cfg, train=not args.eval_only)
    set_class_counts(cfg)
    if trainer_class(cfg).needs_class_counts:
        class_counts_from_weights(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def class_counts_from_weights(cfg: CfgNode) -> None:
    """Fill class counts that neither config nor dataset told from ``MODEL.WEIGHTS``.

    Raises:
        UsageError: it does not tell either.
    """
    nodes = cfg.MODEL.ROI_HEADS, cfg.MODEL.SEM_SEG_HEAD
    if all(node.NUM_CLASSES for node in nodes):
        return
    uri = cfg.MODEL.WEIGHTS
    counts = class_counts(read_checkpoint(local_file(uri))["model"]) if uri else (0, 0)
    for node, count in zip(nodes, counts, strict=True):
        node.NUM_CLASSES = node.NUM_CLASSES or count
    if not all(node.NUM_CLASSES for node in nodes):
        raise UsageError(
            "the number of classes is unknown: name a training set (DATASETS.TRAIN), trained weights (MODEL.WEIGHTS), "
            "or set MODEL.ROI_HEADS.NUM_CLASSES and MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        )


def evaluate(cfg: CfgNode) -> dict[str, Any]:
    """Score ``MODEL.WEIGHTS`` on ``DATASETS.TEST``.

    Raises:
        UsageError: there is nothing to score, or nothing to score it on.
    """
    from detectron2.evaluation import verify_results

    if not cfg.DATASETS.TEST:
        raise UsageError("DATASETS.TEST is empty: name the directory of a labelled dataset")
    trainer = trainer_class(cfg)
    model = trainer.build_model(cfg)
    U2SegCheckpointer(model, save_dir=cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    results = trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """Run ``main(args)`` in as many processes as ``args`` ask for (without GPUs, ``--num-gpus`` counts CPU processes).

    Returns:
        The exit code: 0, or 2 after one line on standard error for a `U2SegError` of any process.
    """
    from torch.multiprocessing import ProcessRaisedException

    try:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except U2SegError as error:
        return _fail(str(error))
    except ProcessRaisedException as error:
        if not _last_line(str(error)).startswith(_OURS):
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    return 0


def _fail(message: str) -> int:
    print(f"error: {_in_one_line(message)}", file=sys.stderr)  # noqa: T201
    return FAILED


def _in_one_line(message: str) -> str:
    """``message``; of the traceback that a worker or a spawned process sends as text, its last line's message."""
    last = _last_line(message)
    return last.partition(": ")[2] if last.startswith(_OURS) else " ".join(message.split())


def _last_line(message: str) -> str:
    return message.strip().splitlines()[-1] if message.strip() else ""


def _has_traceback_to_show(record: logging.LogRecord) -> bool:
    """Keep Detectron2's training loop from printing the traceback of an error that ends in one line anyway."""
    return not (record.exc_info and isinstance(record.exc_info[1], U2SegError))
