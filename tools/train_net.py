#!/usr/bin/env python
"""Train or evaluate a universal segmentation model.

    python tools/train_net.py --config-file configs/COCO-PanopticSegmentation/u2seg_R50_300.yaml --num-gpus 8 \\
        DATASETS.TRAIN path/to/labels OUTPUT_DIR output/r50_300
    python tools/train_net.py --config-file ... --num-gpus 8 --resume
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/r50_300/model_final.pth \\
        DATASETS.TEST path/to/human/labels

A dataset is named by its directory, as tools/generate_pseudo.py and datasets/prepare_*.py make it. On a machine
without GPUs, ``--num-gpus N`` runs N processes on the CPU.
"""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.engine import default_argument_parser

from u2seg.engine.run import evaluate, run, setup, trainer_class


def main(args: argparse.Namespace) -> Any:
    """What each process does."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg)
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    raise SystemExit(run(main, default_argument_parser().parse_args()))
