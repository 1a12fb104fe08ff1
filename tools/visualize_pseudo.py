#!/usr/bin/env python
"""Write a gallery of a pseudo-labelled dataset: static pages that open from disk in any browser."""

import argparse
import sys

from u2seg.runtime import run_tool
from u2seg.tool import ToolParser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("dataset", metavar="DIR", help="output directory of tools/generate_pseudo.py")
    parser.add_argument("--output", metavar="DIR", help="where the gallery goes (default: DIR/gallery)")
    parser.add_argument("--predictions", metavar="DIR", help="another dataset of the same photos, shown beside")
    parser.add_argument("--image-root", metavar="DIR", help="where the photos lie now, if they have moved")
    parser.add_argument("--per-page", type=int, default=48, metavar="N", help="photos on a page (default: 48)")
    parser.add_argument("--max-images", type=int, metavar="N", help="show only the first N photos")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    args = parse(argv)
    from u2seg.report.gallery import write_gallery

    index = write_gallery(
        args.dataset,
        args.output,
        predictions_dir=args.predictions,
        image_root=args.image_root,
        per_page=args.per_page,
        max_images=args.max_images,
        workers=args.workers,
    )
    print(f"gallery: {index.absolute().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
