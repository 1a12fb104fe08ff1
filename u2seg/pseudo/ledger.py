"""What an output directory was made with, and what of it has to be made again.

A run makes *products*; each is made from others. The fingerprint of a product is a hash of the settings that it depends
on and of the fingerprints of what it is made from, and names the folder of its intermediate files: files of other
settings are never mistaken for current ones, not even those of a run that was killed and whose workers live on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from u2seg.errors import UsageError
from u2seg.files import read_checked, write_checked

MADE_FROM = {
    "fit": (),
    "masks": (),
    "stuff": ("fit",),
    "cluster": ("masks",),
    "merge": ("masks", "stuff", "cluster"),
}
"""Product to the products that it is made from: what the stuff segmenter learnt; masks and stuff of each photo; the
clusters of the masks; the panoptic labels."""

FITTED_FILES = {"fit": "stuff.npz", "cluster": "clusters.npz"}
"""Products that are one file, beside the dataset."""

STAGES = ("fit", "label", "cluster", "merge")
"""Steps of a run, in order; ``label`` makes masks and stuff in one pass over the photos."""
REDOABLE = {
    **{name: (name,) for name in MADE_FROM},
    "fitted": ("fit", "cluster"),
    "label": ("masks", "stuff"),
    "all": ("fit", "masks"),
}
"""What can be made again, by the name that a user gives it."""


def made_from(products: tuple[str, ...]) -> set[str]:
    """``products`` and everything that is made from them, directly or not."""
    reached = set(products)
    for product, sources in MADE_FROM.items():  # in an order in which sources come first
        if reached & set(sources):
            reached.add(product)
    return reached


class Ledger:
    """``stages/ledger.json``: by product, its settings and how often it was redone; and which stages are complete."""

    def __init__(self, root: Path) -> None:
        """Read the ledger of the output directory ``root``; a damaged one counts as none, so all is checked again."""
        self.root = root
        self.file = root / "stages" / "ledger.json"
        content = read_checked(self.file)
        self._noted: dict[str, dict[str, Any]] = content.get("products", {})
        self.complete: dict[str, dict[str, Any]] = content.get("complete", {})
        self._current: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, str] = {}
        """Product that is one file to the hash of what it holds; set in each run."""

    def begin(self, settings: Mapping[str, Mapping[str, Any]], redo: str | None = None) -> None:
        """Compare ``settings`` by product with those of earlier runs. Nothing is written before `commit`.

        Args:
            settings: all that each product depends on beside what it is made from.
            redo: a key of `REDOABLE` whose products, and those made from them, may differ and are made again.

        Raises:
            UsageError: others differ; the message says in what, and nothing has been changed.
        """
        current = json.loads(json.dumps(settings))
        again = made_from(REDOABLE[redo]) if redo else set()
        differing: set[str] = set()
        changes: dict[str, tuple[Any, Any]] = {}
        for product in (name for name in MADE_FROM if name in current):
            before = self._noted.get(product, {}).get("settings")
            files = FITTED_FILES.get(product) or f"stages/{product}"
            if before is not None and before != current[product] and (self.root / files).exists():
                differing.add(product)
                changes |= {key: (was, now) for key, was, now in tree_changes(before, current[product])}
        if differing - again:
            told = "; ".join(f"{key} was {shorten(was)} and is {shorten(now)}" for key, (was, now) in changes.items())
            enough = {key: made for key in REDOABLE if differing <= (made := made_from(REDOABLE[key]))}
            least = min(enough, key=lambda key: len(enough[key]))
            raise UsageError(
                f"{self.root} was made with other settings: {told}. Use another --output, the old settings, or "
                f"--redo {least} to make that and what follows from it again."
            )
        for product in current:
            redone = self._noted.get(product, {}).get("redone", 0) + (redo is not None and product in REDOABLE[redo])
            self._current[product] = {"settings": current[product], "redone": redone}

    def commit(self, *products: str) -> None:
        """Note the settings of ``products``, of which the first intermediate file exists now."""
        if any(self._noted.get(product) != self._current[product] for product in products):
            self._noted |= {product: self._current[product] for product in products}
            self._save()

    def fingerprint(self, product: str) -> str:
        """16 hexadecimal digits that change with anything that ``product`` depends on."""
        sources = {name: (self.fingerprint(name), self.contents.get(name)) for name in MADE_FROM[product]}
        dependencies = [product, self._current[product], sources]
        return hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()[:16]

    def finish(self, stage: str, photos: str, notes: Mapping[str, Any]) -> None:
        """Note that ``stage`` is complete for the set of ``photos`` (a hash)."""
        self.complete[stage] = {"photos": photos, "fingerprints": self._fingerprints(stage), **notes}
        self._noted |= {product: self._current[product] for product in REDOABLE[stage]}
        self._save()

    def is_complete(self, stage: str, photos: str) -> bool:
        """Whether ``stage`` was completed for these photos with what it depends on today."""
        entry = self.complete.get(stage, {})
        return entry.get("photos") == photos and entry.get("fingerprints") == self._fingerprints(stage)

    def _fingerprints(self, stage: str) -> list[str]:
        return [self.fingerprint(product) for product in REDOABLE[stage]]

    def _save(self) -> None:
        write_checked(self.file, {"products": self._noted, "complete": self.complete})


def tree_changes(before: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, old and new value of each leaf in which two trees differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from tree_changes(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
    elif before != now:
        yield prefix, before, now


def shorten(value: Any) -> str:
    """``value`` as JSON, at most 80 characters of it."""
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
