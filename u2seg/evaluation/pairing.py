"""Which photos two labelled sets share, told by their file names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from u2seg.errors import DataError
from u2seg.panoptic import LabelledPhoto, PanopticDataset


@dataclass(frozen=True)
class Pairing:
    """The photos that two sets share, and those that are left out."""

    pairs: tuple[tuple[LabelledPhoto, LabelledPhoto], ...]
    """Ground truth and pseudo label of each photo, in order of stem."""
    only_gt: tuple[str, ...]  # File names without a partner, or with several that can't be told apart
    only_pseudo: tuple[str, ...]


def pair_images(gt: PanopticDataset, pseudo: PanopticDataset) -> Pairing:
    """Find the photos of ``gt`` in ``pseudo``.

    First by the whole file name, then by the longest end of the path that names a single photo on each side (so
    ``val/a.jpg`` is ``coco/val/a.jpg``), then without the file ending, the stem at last. What stays
    ambiguous is left out.

    Raises:
        DataError: no photo is in both.
    """
    partner: dict[int, int] = {}
    paired: set[int] = set()
    for here, there in zip(_unique_names(gt, pseudo), _unique_names(pseudo, gt), strict=True):
        for name in here.keys() & there.keys():
            if here[name] not in partner and there[name] not in paired:
                partner[here[name]] = there[name]
                paired.add(there[name])
    if not partner:
        sets = [f"{each.json_file} ({len(each.photos)} photos{_example(each)})" for each in (gt, pseudo)]
        raise DataError(f"no photo of {sets[0]} is in {sets[1]} by its file name; give labels of the same photos")
    pairs = ((gt.photos[index], pseudo.photos[other]) for index, other in partner.items())
    return Pairing(
        tuple(sorted(pairs, key=lambda pair: (pair[0].stem, pair[0].file_name))),
        tuple(photo.file_name for index, photo in enumerate(gt.photos) if index not in partner),
        tuple(photo.file_name for index, photo in enumerate(pseudo.photos) if index not in paired),
    )


def _unique_names(dataset: PanopticDataset, other: PanopticDataset) -> Iterator[dict[tuple[str, ...], int]]:
    """From exact to vague, ways to name the photos of ``dataset``: names that only one has, with its position."""
    whole = [PurePosixPath(photo.file_name).parts for photo in dataset.photos]
    bare = [(*parts[:-1], PurePosixPath(parts[-1]).stem) if parts else parts for parts in whole]
    deepest = max((photo.file_name.count("/") + 1 for each in (dataset, other) for photo in each.photos), default=0)
    for names, depth in [(whole, 0), *((names, depth) for names in (whole, bare) for depth in range(deepest, 0, -1))]:
        ends = [parts[-depth:] for parts in names]  # all parts for depth 0
        count = Counter(ends)
        yield {
            end: index for index, end in enumerate(ends) if count[end] == 1 and (len(end) == depth or not depth) and end
        }


def _example(dataset: PanopticDataset) -> str:
    return f" such as {dataset.photos[0].file_name!r}" if dataset.photos else ""
