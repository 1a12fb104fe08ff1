#!/usr/bin/env python
"""Segment photos or a film with a trained model, and look at the result."""

import argparse
import os
import re
import sys

from u2seg.runtime import run_tool
from u2seg.tool import ToolParser

EXAMPLES = """
examples:
  python tools/demo.py --config-file configs/COCO-PanopticSegmentation/u2seg_eval_300.yaml \\
      --input photo.jpg --output results/demo --opts MODEL.WEIGHTS cocotrain_300_0089999.pth

  # classes called by what they were matched to; predictions as a dataset for the gallery and evaluation
  python tools/demo.py --config-file ... --input 'photos/*.jpg' --output results/demo \\
      --matching matching.json --save-panoptic results/panoptic

  # a film
  python tools/demo.py --config-file ... --video-input film.mp4 --output results/film.mp4
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: the arguments of Detectron2's demo, and three more."""
    parser = ToolParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="PHOTO", help="files, folders, or a 'pattern*'")
    source.add_argument("--video-input", metavar="FILM", help="a film; needs pip install 'u2seg[video]'")
    parser.add_argument("--output", default="", metavar="PATH", help="folder or file of the pictures, or of the film")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, metavar="SCORE", help="of things (default: %(default)s)"
    )
    parser.add_argument(
        "--matching", default="", metavar="JSON", help="file of --save-matching: classes are called by it"
    )
    parser.add_argument("--policy", default="", help="which matching of that file (default: many_to_one)")
    parser.add_argument(
        "--save-panoptic", default="", metavar="DIR", help="also write the predictions as a COCO panoptic dataset"
    )
    options = {"nargs": "*", "metavar": "KEY VALUE", "help": "config keys over those of the YAML"}
    parser.add_argument("--opts", default=[], **options)
    parser.add_argument("key_values", **options)
    args = parser.parse_args(argv)
    for index, word in enumerate(args.input or ()):
        if re.fullmatch(r"[A-Z][A-Z0-9_]+(\.\w+)*", word) and not os.path.exists(word):
            # --input takes all that follows
            args.key_values, args.input = [*args.input[index:], *args.key_values], args.input[:index]
            break
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    args = parse(argv)
    from u2seg.engine import demo
    from u2seg.errors import UsageError
    from u2seg.images import find_photos

    if not args.output and not args.save_panoptic:
        raise UsageError("no window is opened: name an --output for the pictures, or a folder for --save-panoptic")
    if args.video_input and (args.save_panoptic or not args.output):
        raise UsageError("--video-input writes a film: name an --output for it, and leave --save-panoptic out")
    from u2seg.engine.predictor import Predictor

    film = demo.film_path(args.video_input, args.output) if args.video_input else None
    photos = find_photos(args.input, option="--input", output=args.output or "") if args.input else None
    pictures = demo.picture_paths(photos, args.output) if photos else {}
    predictor = Predictor.from_config(
        args.config_file,
        confidence=args.confidence_threshold,
        matching=args.matching,
        policy=args.policy,
        opts=[*args.opts, *args.key_values],
    )
    if film is not None:
        print(f"segmented {demo.segment_film(predictor, args.video_input, film)} frames, see {film}")
        return 0
    failures = demo.segment_photos(predictor, photos, pictures, args.save_panoptic)
    count, output = len(photos) - len(failures), pictures[photos.photos[0].id] if len(pictures) == 1 else args.output
    places = " and ".join(str(place) for place in (output, args.save_panoptic) if place)
    print(f"segmented {count} photo{'' if count == 1 else 's'}, see {places}")
    for note in photos.notes():
        print(note, file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(photos)} photos could not be read", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
