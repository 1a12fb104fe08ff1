#!/usr/bin/env python
"""Score pseudo labels against human panoptic labels of the same photos, without training anything."""

import argparse
import sys
from pathlib import Path

from u2seg.runtime import run_tool
from u2seg.tool import ToolParser

EXAMPLES = """
The matching of clusters to classes is fitted on the photos that are scored, which flatters; so each figure stands
beside what chance makes of the same segments. Figures that mean more: --folds 2, or --fit-on another labelled set.

examples:
  python tools/evaluate_pseudo.py --pseudo out --gt panoptic.json --gt-dir panoptic
  python tools/evaluate_pseudo.py --pseudo out --gt val.json --gt-dir val \\
      --fit-on out_train --fit-gt train.json --fit-gt-dir train
  python tools/evaluate_pseudo.py --pseudo out --gt a.json --gt-dir a --save-matching matching.json
  python tools/evaluate_pseudo.py --pseudo out2 --gt b.json --gt-dir b --matching matching.json
"""

POLICIES = ("many_to_one", "one_to_one", "one_to_one_then_majority", "u2seg_paper")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = ToolParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--pseudo", type=Path, required=True, metavar="DIR", help="output of tools/generate_pseudo.py")
    add("--gt", type=Path, required=True, metavar="JSON", help="human labels in COCO panoptic format")
    add("--gt-dir", type=Path, required=True, metavar="DIR", help="the PNGs of --gt")
    add("--policies", metavar="A,B", help=f"of {', '.join(POLICIES)} (default: all but the last)")
    add("--gt-things", default="category", metavar="LEVEL", help="category (default) or supercategory")
    add("--gt-stuff", default="supercategory", metavar="LEVEL", help="supercategory (default) or category")
    add("--fit-on", type=Path, metavar="DIR", help="fit the matching on these pseudo labels (same clusters) instead")
    add("--fit-gt", type=Path, metavar="JSON", help="human labels of --fit-on (default: --gt)")
    add("--fit-gt-dir", type=Path, metavar="DIR", help="the PNGs of --fit-gt (default: --gt-dir)")
    add("--matching", type=Path, metavar="FILE", help="use a matching that --save-matching wrote")
    add("--save-matching", type=Path, metavar="FILE", help="write the fitted matchings and their counts")
    add("--folds", type=int, default=0, metavar="N", help="also fit on the other folds of the same photos")
    add("--seeds", type=int, default=5, metavar="N", help="runs of the chance control (default: %(default)s; 0: none)")
    add("--json", type=Path, metavar="FILE", help="write all figures, per class too")
    add("--picture", type=Path, metavar="PNG", help="draw which cluster overlaps which class")
    add("--per-class", type=int, nargs="?", const=10, default=0, metavar="N", help="show the N best and worst classes")
    add("--workers", type=int, default=0, metavar="N", help="processes that read PNGs (default: as many as help)")
    add("--coco-library", metavar="NAME", help="hotcoco or pycocotools (default: hotcoco where installed)")
    add("--paper-box-iou", type=float, default=0.7, help="u2seg_paper: least box IoU of a vote (default: %(default)s)")
    add("--paper-score", type=float, default=0.6, help="u2seg_paper: least score of a vote (default: %(default)s)")
    add("--paper-stuff-iou", type=float, default=0.15, help="u2seg_paper: least IoU of stuff (default: %(default)s)")
    return parser.parse_args(argv)


def main() -> int:
    """Run the tool."""
    args = parse()
    from u2seg.errors import UsageError, printable
    from u2seg.evaluation.labels import LabelPaths, evaluate_labels
    from u2seg.evaluation.matching import DEFAULT_POLICIES, Scoring
    from u2seg.evaluation.report import as_json, render
    from u2seg.files import in_words, write_json

    if not args.fit_on and (args.fit_gt or args.fit_gt_dir):
        raise UsageError("--fit-gt and --fit-gt-dir describe --fit-on, which is missing")
    fit_on = args.fit_on and LabelPaths(args.fit_on, args.fit_gt or args.gt, args.fit_gt_dir or args.gt_dir)
    scoring = Scoring(
        policies=args.policies.split(",") if args.policies else DEFAULT_POLICIES,
        things=args.gt_things,
        stuff=args.gt_stuff,
        box_iou=args.paper_box_iou,
        score=args.paper_score,
        stuff_iou=args.paper_stuff_iou,
        matching=args.matching,
        folds=args.folds,
        seeds=args.seeds,
        backend=args.coco_library,
    )
    scored = LabelPaths(args.pseudo, args.gt, args.gt_dir)
    report = evaluate_labels(scored, scoring, fit_on, args.save_matching, args.picture, args.workers)
    print(printable(render(report, args.per_class)))
    if args.json:
        with in_words(args.json):
            write_json(args.json, as_json(report))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
