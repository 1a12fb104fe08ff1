"""Which photos of two datasets are the same: by name, since ids differ from tool to tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from u2seg.errors import DataError
from u2seg.panoptic.dataset import LabelledPhoto, PanopticDataset

Pair = tuple[LabelledPhoto, LabelledPhoto]
"""A photo as the ground truth lists it, and as the pseudo labels do."""


def pair_images(gt: PanopticDataset, pseudo: PanopticDataset) -> tuple[list[Pair], dict[str, list[str]]]:
    """Find the photos of ``gt`` in ``pseudo``.

    First by the whole file name, then by the longest end of the path that names a single photo on each side (so
    ``val/a.jpg`` is ``coco/val/a.jpg``), then by ends without the file ending, the stem at last. What stays ambiguous
    is left out.

    Returns:
        The pairs, in order of stem; and by ``only_gt`` and ``only_pseudo``, the file names without a partner.

    Raises:
        DataError: no photo is in both.
    """
    paths = [[PurePosixPath(photo.file_name) for photo in each.photos] for each in (gt, pseudo)]
    whole = [[path.parts for path in side] for side in paths]
    bare = [[(*path.parts[:-1], path.stem) for path in side] for side in paths]
    deepest = max((len(parts) for side in whole for parts in side), default=0)
    partner: dict[int, int] = {}
    paired: set[int] = set()
    for sides, depth in [(whole, 0), *((sides, depth) for sides in (whole, bare) for depth in range(deepest, 0, -1))]:
        first, second = (_unique_ends(names, depth) for names in sides)
        for end in first.keys() & second.keys():
            if first[end] not in partner and second[end] not in paired:
                partner[first[end]] = second[end]
                paired.add(second[end])
    if not partner:
        examples = [f" such as {each.photos[0].file_name!r}" if each.photos else "" for each in (gt, pseudo)]
        sets = [
            f"{each.json_file} ({len(each.photos)} photos{e})" for each, e in zip((gt, pseudo), examples, strict=True)
        ]
        raise DataError(f"no photo of {sets[0]} is in {sets[1]} by its file name; give labels of the same photos")
    pairs = [(gt.photos[index], pseudo.photos[other]) for index, other in partner.items()]
    return sorted(pairs, key=lambda pair: (pair[0].stem, pair[0].file_name)), {
        "only_gt": [photo.file_name for index, photo in enumerate(gt.photos) if index not in partner],
        "only_pseudo": [photo.file_name for index, photo in enumerate(pseudo.photos) if index not in paired],
    }


def _unique_ends(names: Sequence[tuple[str, ...]], depth: int) -> dict[tuple[str, ...], int]:
    """The last ``depth`` parts of each of ``names``, or all for 0, with its position; only those that one name has."""
    place: dict[tuple[str, ...], int | None] = {}
    for index, parts in enumerate(names):
        if len(parts) >= max(depth, 1):
            end = parts[-depth:]
            place[end] = None if end in place else index
    return {end: index for end, index in place.items() if index is not None}
