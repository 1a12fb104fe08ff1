#!/usr/bin/env python
"""Segment photos, a film or a camera with a trained model, and look at the result."""

import argparse
import sys

from u2seg.runtime import run_tool

EXAMPLES = """
examples:
  python tools/demo.py --config-file configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml \\
      --input photo.jpg --output results/demo --opts MODEL.WEIGHTS cocotrain_300_0089999.pth

  # the classes called by what they were matched to; predictions as a dataset for the gallery and evaluation
  python tools/demo.py --config-file ... --input 'photos/*.jpg' --output results/demo \\
      --matching matching.json --save-panoptic results/panoptic

  # a film
  python tools/demo.py --config-file ... --video-input film.mp4 --output results/film.mp4
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: the arguments of Detectron2's demo, and three more."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="YAML", help="the model")
    parser.add_argument("--input", nargs="+", metavar="PHOTO", help="files, folders, or a 'pattern*'")
    parser.add_argument("--webcam", action="store_true", help="segment what the camera sees, until Esc or Ctrl-C")
    parser.add_argument("--video-input", metavar="FILM", help="a film")
    parser.add_argument("--output", metavar="PATH", help="a file or folder; without one, a window is opened")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, metavar="SCORE", help="of things (default: %(default)s)"
    )
    parser.add_argument("--matching", metavar="JSON", help="file of --save-matching: classes are called by it")
    parser.add_argument("--policy", default="", help="which matching of that file (default: many_to_one)")
    parser.add_argument("--save-panoptic", metavar="DIR", help="also write the predictions as a COCO panoptic dataset")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config over the YAML"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    args = parse(argv)
    from u2seg.errors import UsageError

    if sum([bool(args.input), args.webcam, bool(args.video_input)]) != 1:
        raise UsageError("give one of --input, --webcam and --video-input; see --help")
    if args.save_panoptic and not args.input:
        raise UsageError("--save-panoptic goes with --input")
    from u2seg.engine import demo

    demo.quiet()
    from u2seg.engine.predictor import Predictor

    photos = demo.find_inputs(args.input) if args.input else None
    predictor = Predictor.from_config(
        args.config_file,
        confidence=args.confidence_threshold,
        matching=args.matching or "",
        policy=args.policy,
        opts=args.opts,
    )
    if photos is None:
        frames, film = demo.run_film(predictor, 0 if args.webcam else args.video_input, args.output or "")
        print(f"segmented {frames} frames{f', see {film}' if film else ''}")
        return 0
    outcome = demo.run_photos(predictor, photos, args.output or "", args.save_panoptic or "")
    where = [str(path) for path in outcome.written]
    print(
        f"segmented {outcome.done} photo{'' if outcome.done == 1 else 's'}"
        + (f", see {where[0]}" if len(where) == 1 else "")
    )
    if len(where) > 1:
        print(f"see {args.output or where[0]}" + (f" and {where[-1]}" if args.save_panoptic and args.output else ""))
    if outcome.failed:
        print(f"{len(outcome.failed)} of {len(photos)} photos could not be read", file=sys.stderr)
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
