#!/usr/bin/env python
"""Write a gallery of a pseudo-labelled dataset: static pages that open from disk in any browser."""

import argparse
import sys

from u2seg.runtime import run_tool
from u2seg.tool import ToolParser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; the names are those of the arguments of `write_gallery`."""
    parser = ToolParser(description=__doc__)
    add = parser.add_argument
    add("dataset_dir", metavar="DIR", help="output directory of tools/generate_pseudo.py")
    add("--output", dest="output_dir", metavar="DIR", help="where the gallery goes (default: DIR/gallery)")
    add("--predictions", dest="predictions_dir", metavar="DIR", help="another dataset of the same photos, shown beside")
    add("--image-root", metavar="DIR", help="where the photos lie now, if they have moved")
    add("--per-page", type=int, default=48, metavar="N", help="photos on a page (default: 48)")
    add("--max-images", type=int, metavar="N", help="show only the first N photos")
    add("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    args = parse(argv)
    from u2seg.report.gallery import write_gallery

    index = write_gallery(**vars(args))
    print(f"gallery: {index.absolute().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
