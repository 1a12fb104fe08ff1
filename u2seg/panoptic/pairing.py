"""Which photos of two datasets are the same: by name, since ids differ from tool to tool.

Shapes: ``n`` pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from u2seg.errors import DataError
from u2seg.panoptic.dataset import PanopticDataset


def pair_images(gt: PanopticDataset, pseudo: PanopticDataset) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Find the photos of ``gt`` in ``pseudo``.

    First by the whole file name, then by the longest end of the path that names a single photo on each side (so
    ``val/a.jpg`` is ``coco/val/a.jpg``), then by ends without the file ending, the stem at last. What stays ambiguous
    is left out.

    Returns:
        Where the photos of each pair stand in the one dataset and in the other, int64 (n, 2), in order of stem; and by
        ``only_gt`` and ``only_pseudo``, the file names without a partner.

    Raises:
        DataError: no photo is in both.
    """
    sides = [dataset.photos.file_names for dataset in (gt, pseudo)]
    deepest = max((len(PurePosixPath(name).parts) for names in sides for name in names), default=0)
    partner: dict[int, int] = {}
    paired: set[int] = set()
    depths = range(deepest, 0, -1)
    for suffix, depth in [(True, 0), *((suffix, depth) for suffix in (True, False) for depth in depths)]:
        if len(partner) == min(map(len, sides)):
            break  # there is nothing left to pair
        first, second = (_unique_ends(names, depth, suffix) for names in sides)
        for end in first.keys() & second.keys():
            if first[end] not in partner and second[end] not in paired:
                partner[first[end]] = second[end]
                paired.add(second[end])
    if not partner:
        examples = [f" such as {names[0]!r}" if names else "" for names in sides]
        sets = [f"{d.json_file} ({len(d.photos)} photos{e})" for d, e in zip((gt, pseudo), examples, strict=True)]
        raise DataError(f"no photo of {sets[0]} is in {sets[1]} by its file name; give labels of the same photos")
    order = sorted(partner, key=lambda place: (PurePosixPath(sides[0][place]).stem, sides[0][place]))
    return np.array([(place, partner[place]) for place in order], np.int64), {
        "only_gt": [name for place, name in enumerate(sides[0]) if place not in partner],
        "only_pseudo": [name for place, name in enumerate(sides[1]) if place not in paired],
    }


def _unique_ends(names: Sequence[str], depth: int, suffix: bool) -> dict[str, int]:
    """The last ``depth`` parts of each of ``names``, or all for 0, with its place; only those that one name has.

    Without ``suffix``, the ending of the file is left out.
    """
    place: dict[str, int | None] = {}
    for index, name in enumerate(names):
        path = PurePosixPath(name)
        parts = path.parts if suffix else (*path.parts[:-1], path.stem)
        if len(parts) >= max(depth, 1):
            end = "/".join(parts[-depth:])
            place[end] = None if end in place else index
    return {end: index for end, index in place.items() if index is not None}
