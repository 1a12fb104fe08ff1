"""What an output directory holds of the photos of a run, as it is to be now: records, and what was learnt."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import u2seg
from u2seg.files import file_sha256
from u2seg.images import Photo, PhotoSet
from u2seg.pseudo.fitted import Fitted, current_fitted, write_fitted
from u2seg.pseudo.index import PACKED, ProductIndex
from u2seg.pseudo.intermediate import DamagedFileError, Intermediate
from u2seg.pseudo.inventory import save_inventory, take_inventory
from u2seg.pseudo.ledger import FITTED_FILES, Ledger


class Products:
    """The products of a run in one output directory."""

    def __init__(self, root: Path, photos: PhotoSet) -> None:
        """Read what is in ``root``, which this process has locked; ``ledger.begin`` comes before anything else."""
        self.root, self.photo_set = root, photos
        self._table = root / "stages" / "photos.json"
        self.inventory = take_inventory(photos, self._table, keep_ids=not photos.numbered)
        self.ledger = Ledger(root)
        self._indexes: dict[str, ProductIndex] = {}

    def save_inventory(self) -> None:
        """Keep the table of photos for the next run."""
        save_inventory(self._table, self.inventory)

    def index(self, product: str) -> ProductIndex:
        """Where the records of ``product`` as it is to be now are."""
        fingerprint = self.ledger.fingerprint(product)
        if product not in self._indexes or self._indexes[product].files.fingerprint != fingerprint:
            self._indexes[product] = ProductIndex(self.root, product, fingerprint)
        return self._indexes[product]

    def files(self, product: str) -> Intermediate:
        """The records of ``product`` as it is to be now, to read."""
        return self.index(product).files

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
        self.save_inventory()

    def fitted(self, product: str) -> Fitted | None:
        """What ``product``, "fit" or "cluster", has learnt, if it is there and current."""
        path = self.root / FITTED_FILES[product]
        fitted = current_fitted(path, self.ledger.fingerprint(product))
        if fitted is not None:
            self.ledger.contents[product] = file_sha256(path)
        return fitted

    def keep_fitted(self, product: str, state: Mapping[str, Any], learnt_on: Mapping[str, Any]) -> None:
        """Save what ``product`` has learnt."""
        path = self.root / FITTED_FILES[product]
        write_fitted(path, Fitted(dict(state), learnt_on, self.ledger.fingerprint(product)))
        self.ledger.contents[product] = file_sha256(path)

    def features(self) -> Intermediate:
        """Features that were extracted for fitting and are kept until their photo is labelled."""
        return Intermediate(self.root, "features", self.ledger.fingerprint("fit"))

    def labelled(self) -> list[Photo]:
        """Photos whose masks and stuff have been made, in order."""
        masks, stuff, keys = self.index("masks"), self.index("stuff"), self.inventory.keys
        return [photo for photo in self.inventory.photos if masks.has(keys[photo.id]) and stuff.has(keys[photo.id])]

    def content(self, photos: Sequence[Photo]) -> str:
        """Hash of all that the dataset of ``photos`` depends on; caveats follow from the fingerprint."""
        digest = hashlib.sha256()
        for line in (u2seg.__version__, str(self.photo_set.root), self.ledger.fingerprint("merge")):
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
        for photo in photos:
            line = f"{photo.id} {self.inventory.keys[photo.id]} {photo.label}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()
