#!/usr/bin/env python
"""Make a dataset directory of COCO's panoptic labels.

    python datasets/prepare_coco.py --coco datasets/coco --split val2017 --output datasets/coco/panoptic_val2017
    python datasets/prepare_coco.py --coco datasets/coco --split val2017 --supercategories \\
        --output datasets/coco/panoptic_val2017_80_15

With --supercategories, stuff classes are merged into their 15 supercategories, as the paper evaluates.
"""

from __future__ import annotations

from pathlib import Path

from u2seg.data.convert import convert_panoptic
from u2seg.runtime import run_tool
from u2seg.tool import ToolParser


def main() -> None:
    """Parse and convert."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="COCO as downloaded: annotations/, val2017/, ...")
    parser.add_argument("--split", default="val2017", help="val2017 or train2017 (default: %(default)s)")
    parser.add_argument("--supercategories", action="store_true", help="merge stuff into its 15 supercategories")
    parser.add_argument("--output", type=Path, required=True, help="new, empty, or an earlier output")
    args = parser.parse_args()
    annotations = args.coco / "annotations"
    pngs = annotations / f"panoptic_{args.split}"
    convert_panoptic(
        annotations / f"panoptic_{args.split}.json",
        pngs if pngs.exists() else args.coco / f"panoptic_{args.split}",
        args.coco / args.split,
        args.output,
        merge_stuff=args.supercategories,
    )


if __name__ == "__main__":
    raise SystemExit(run_tool(main))
