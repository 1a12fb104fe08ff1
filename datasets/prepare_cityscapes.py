#!/usr/bin/env python
"""Make a dataset directory of Cityscapes' panoptic labels (8 things, 11 stuff).

    python datasets/prepare_cityscapes.py --cityscapes datasets/cityscapes --split val \\
        --output datasets/cityscapes/panoptic_val

It needs ``gtFine/cityscapes_panoptic_val.json`` and ``gtFine/cityscapes_panoptic_val/``, which cityscapesScripts'
``csCreatePanopticImgs`` makes.
"""

from __future__ import annotations

from pathlib import Path

from u2seg.data.convert import convert_panoptic
from u2seg.panoptic import LabelledPhoto
from u2seg.runtime import run_tool
from u2seg.tool import ToolParser


def photo_name(photo: LabelledPhoto) -> str:
    """``frankfurt/frankfurt_000000_000294_leftImg8bit.png`` of the photo with id ``frankfurt_000000_000294``."""
    city = str(photo.image_id).split("_")[0]
    return f"{city}/{photo.image_id}_leftImg8bit.png"


def main() -> None:
    """Parse and convert."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("--cityscapes", type=Path, required=True, help="holds gtFine/ and leftImg8bit/")
    parser.add_argument("--split", default="val", help="train or val (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="new, empty, or an earlier output")
    args = parser.parse_args()
    labels = args.cityscapes / "gtFine" / f"cityscapes_panoptic_{args.split}"
    photos = args.cityscapes / "leftImg8bit" / args.split
    convert_panoptic(labels.with_suffix(".json"), labels, photos, args.output, photo_name=photo_name)


if __name__ == "__main__":
    raise SystemExit(run_tool(main))
