"""What an output directory holds of the photos of a run, as it is to be now: records, and what was learnt.

What is learnt once over the whole set, ``clusters.npz`` and ``stuff.npz``, has a note of what it was learnt on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import u2seg
from u2seg.errors import UsageError
from u2seg.files import file_sha256, write_arrays
from u2seg.images import Photo, PhotoSet
from u2seg.pseudo.index import PACKED, ProductIndex
from u2seg.pseudo.intermediate import DamagedFileError, Intermediate, load_arrays, undamaged
from u2seg.pseudo.inventory import take_inventory
from u2seg.pseudo.ledger import FITTED_FILES, Ledger, shorten, tree_changes

_NOTE = "learnt_on"


class Products:
    """The products of a run in one output directory."""

    def __init__(self, root: Path, photos: PhotoSet) -> None:
        """Read what is in ``root``, which this process has locked; ``ledger.begin`` comes before anything else."""
        self.root, self.photo_set = root, photos
        self.inventory = take_inventory(photos, root / "stages" / "photos.json", keep_ids=not photos.numbered)
        self.ledger = Ledger(root)
        self._indexes: dict[str, ProductIndex] = {}

    def index(self, product: str) -> ProductIndex:
        """Where the records of ``product`` as it is to be now are."""
        fingerprint = self.ledger.fingerprint(product)
        if product not in self._indexes or self._indexes[product].fingerprint != fingerprint:
            self._indexes[product] = ProductIndex(self.root, product, fingerprint)
        return self._indexes[product]

    def drop(self, damaged: Sequence[DamagedFileError]) -> None:
        """Delete records that were damaged, so that they are made again; other files are deleted by who reads them."""
        for product in PACKED:
            if keys := {error.key for error in damaged if error.product == product}:
                self.index(product).drop(keys)

    def tidy(self) -> None:
        """Pack records, delete what no photo needs any more, and keep the table of photos."""
        shutil.rmtree(self.root / "stages" / "features", ignore_errors=True)
        keys = self.inventory.keys.values()
        for product in PACKED:
            self.index(product).pack_many(keys)
            self.index(product).sweep(set(keys))
        self.inventory.save()

    def is_fitted(self, product: str) -> bool:
        """Whether what ``product``, "fit" or "cluster", has learnt is there and current."""
        path = self.root / FITTED_FILES[product]
        try:
            _, note = read_fitted(path)
        except DamagedFileError:
            return False
        current = bool(note["fingerprint"] == self.ledger.fingerprint(product))
        if current:
            self.ledger.contents[product] = file_sha256(path)
        return current

    def keep_fitted(self, product: str, state: Mapping[str, Any], learnt_on: Mapping[str, Any]) -> None:
        """Save the ``state`` of a clusterer or stuff segmenter, and the settings of the features it was learnt on."""
        path = self.root / FITTED_FILES[product]
        note = json.dumps({"settings": learnt_on, "fingerprint": self.ledger.fingerprint(product)}, sort_keys=True)
        write_arrays(path, {**state, _NOTE: np.array(note)})
        self.ledger.contents[product] = file_sha256(path)

    def features(self) -> Intermediate:
        """Features that were extracted for fitting and are kept until their photo is labelled."""
        return Intermediate(self.root, "features", self.ledger.fingerprint("fit"))

    def labelled(self) -> dict[str, Photo]:
        """Photos whose masks and stuff have been made, by their keys, in order."""
        masks, stuff, keys = self.index("masks"), self.index("stuff"), self.inventory.keys
        by_key = {keys[photo.id]: photo for photo in self.inventory.photos}
        return {key: photo for key, photo in by_key.items() if masks.has(key) and stuff.has(key)}

    def content(self, photos: Mapping[str, Photo]) -> str:
        """Hash of all that the dataset of ``photos``, by key, depends on; caveats follow from the fingerprint."""
        digest = hashlib.sha256()
        for line in (u2seg.__version__, str(self.photo_set.root), self.ledger.fingerprint("merge")):
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
        for key, photo in photos.items():
            digest.update(f"{photo.id} {key} {photo.label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def read_fitted(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `Products.keep_fitted` has saved: the state, and its note, ``settings`` and ``fingerprint``.

    Raises:
        DamagedFileError: it is missing or damaged.
    """
    with undamaged(Path(path)):
        arrays = load_arrays(Path(path).read_bytes())
        return arrays, json.loads(str(arrays.pop(_NOTE)))


def reuse_fitted(directory: str, name: str, learnt_on: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state that an earlier run in ``directory`` has saved in ``name``, learnt on features of the same settings.

    Raises:
        UsageError: it can't be read, or was learnt on other features.
    """
    key = f"U2SEG.CLUSTERS.REUSE {directory!r}"
    path = Path(directory).expanduser() / name
    if not path.is_file():
        raise UsageError(f"{key} must be the --output of an earlier run: it holds no {name}")
    try:
        arrays = load_arrays(path.read_bytes())
    except Exception as error:  # numpy and zipfile raise nearly anything on half a file
        raise UsageError(f"{key}: {name} can't be read ({type(error).__name__})") from error
    if _NOTE not in arrays:
        raise UsageError(f"{key}: {name} was made by an older u2seg, which did not note what it was learnt on")
    before = json.loads(str(arrays.pop(_NOTE)))["settings"]
    changes = "; ".join(
        f"{setting} was {shorten(was)} there and is {shorten(now)} here"
        for setting, was, now in tree_changes(before, json.loads(json.dumps(learnt_on)))
    )
    if changes:
        raise UsageError(f"{key}: {name} was learnt on other features than this run has: {changes}")
    return arrays
