#!/usr/bin/env python
"""Write a gallery of a pseudo-labelled dataset: static pages that open from disk in any browser."""

import argparse
import sys

from u2seg.runtime import run_tool


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", metavar="DIR", help="output directory of tools/generate_pseudo.py")
    parser.add_argument("--output", metavar="DIR", help="where the gallery goes (default: DIR/gallery)")
    parser.add_argument("--predictions", metavar="DIR", help="another dataset of the same photos, shown beside")
    parser.add_argument("--image-root", metavar="DIR", help="where the photos lie now, if they have moved")
    parser.add_argument("--thumbnail", type=int, default=320, metavar="PIXELS", help="longest side (default: 320)")
    parser.add_argument("--per-page", type=int, default=48, metavar="N", help="photos on a page (default: 48)")
    parser.add_argument("--crops", type=int, default=24, metavar="N", help="most crops of a class (default: 24)")
    parser.add_argument("--max-images", type=int, metavar="N", help="show only the first N photos")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of crops (default: 0)")
    parser.add_argument("--overview", metavar="FILE", help="also write one PNG with a few photos and their labels")
    parser.add_argument("--overview-images", type=int, default=4, metavar="N", help="photos in it (default: 4)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    args = parse(argv)
    from u2seg.report.gallery import write_gallery
    from u2seg.report.overview import render_overview

    index = write_gallery(
        args.dataset,
        args.output,
        predictions_dir=args.predictions,
        image_root=args.image_root,
        thumbnail=args.thumbnail,
        per_page=args.per_page,
        crops_per_class=args.crops,
        max_images=args.max_images,
        workers=args.workers,
        seed=args.seed,
    )
    if args.overview:
        render_overview(args.dataset, args.overview_images, args.overview, image_root=args.image_root)
    print(f"gallery: {index.absolute().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
