#!/usr/bin/env python
"""Write the photos that scikit-image and scikit-learn ship into a folder."""

import shutil
import sys
from pathlib import Path

from u2seg.runtime import run_tool
from u2seg.tool import ToolParser

SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left")


def main() -> int:
    """Run the tool."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    import skimage
    import sklearn.datasets

    shipped = Path(skimage.__file__).parent / "data"
    photos = [path for name in SKIMAGE for path in sorted(shipped.glob(f"{name}.*"))]
    photos += sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    for path in photos:
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    print(f"{len(photos)} photos in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
