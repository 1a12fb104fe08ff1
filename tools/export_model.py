#!/usr/bin/env python
"""Write a trained model as one TorchScript file, which segments without Detectron2 and this package.

    python tools/export_model.py --config-file configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml \\
        --output u2seg_300.ts MODEL.WEIGHTS cocotrain_300_0089999.pth

What the file takes and gives, and what can't be exported, is in docs/predict.md.
"""

import argparse
import sys

from u2seg.runtime import run_tool


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="the model")
    parser.add_argument("--output", required=True, metavar="FILE", help="the TorchScript file")
    parser.add_argument("--example", metavar="PHOTO", help="photo to trace with, in which something is found")
    parser.add_argument("--confidence-threshold", type=float, metavar="SCORE", help="of things (default: the config's)")
    parser.add_argument(
        "--matching", default="", metavar="JSON", help="file of --save-matching, for the classes' names"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config over the YAML")
    args = parser.parse_args(argv)
    from u2seg.engine.demo import quiet
    from u2seg.engine.export import export_model
    from u2seg.engine.predictor import Predictor

    quiet()
    predictor = Predictor.from_config(
        args.config_file, confidence=args.confidence_threshold, matching=args.matching, opts=args.opts
    )
    print(f"wrote {export_model(predictor, args.output, args.example)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
