#!/usr/bin/env python
"""Write semantic PNGs of a panoptic dataset, for Detectron2's "separated" sets and for tools that want such PNGs.

    python datasets/export_semantic.py --labels my_labels --output my_labels/sem_seg
    python datasets/export_semantic.py --labels my_labels --output my_labels/classes --every-class

Pixels are 0 for things, 1..S for stuff and 255 for nothing; with --every-class the category id, and 0 for nothing.
"""

from __future__ import annotations

from pathlib import Path

from u2seg.data.convert import export_semantic
from u2seg.runtime import run_tool
from u2seg.tool import ToolParser


def main() -> None:
    """Parse and export."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="a dataset: panoptic.json, panoptic/")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new, empty, or an earlier output")
    parser.add_argument("--every-class", action="store_true", help="category ids of things and stuff")
    args = parser.parse_args()
    export_semantic(args.labels, args.output, args.every_class)


if __name__ == "__main__":
    raise SystemExit(run_tool(main))
