"""JSON files of any size, entry by entry: Python's own parser on one piece of the file after another."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from u2seg.errors import DataError, U2SegError, UsageError
from u2seg.fields import an_object, told

PIECE = 2**18
"""Characters that are read at once; more where one entry is longer."""
_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_REST = 2
"""Characters of a number that may follow a shorter one, as ``e+`` of ``1e+5`` follows ``1``."""


def read_members(path: str | Path, lists: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Members of the object that a JSON file holds, in the file's order; encodings are those of `read_json`.

    Args:
        path: the file.
        lists: keys whose value, if it is a list, comes as an iterator of its entries, one of them in memory at a
            time. What is not taken from it before the next member is asked for is skipped.

    Raises:
        UsageError: there is no such file.
        DataError: it holds no JSON object; what came before the fault has been given by then.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    with _explained(), open(path, "rb") as file:
        encoding = json.detect_encoding(file.read(4))
        file.seek(0)
        with io.TextIOWrapper(file, encoding, "surrogatepass", newline="") as text:
            yield from _members(_Pieces(text), lists)


def listed(key: str, value: Any) -> Iterator[dict[str, Any]]:
    """``value``, that `read_members` gave for ``key``, if it is a list of objects.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, Iterator):
        raise DataError(f"it has no list {key!r}")
    return (told("it", an_object, entry, position, key) for position, entry in enumerate(value))


def _members(pieces: _Pieces, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    pieces.take("{")
    more = not pieces.take_if("}")
    while more:
        key = pieces.value()
        if not isinstance(key, str):
            raise ValueError("a key is no text")
        pieces.take(":")
        if key in lists and pieces.take_if("["):
            entries = _entries(pieces)
            yield key, entries
            deque(entries, maxlen=0)
        else:
            yield key, pieces.value()
        more = pieces.take(",}") == ","
    if pieces.sign():
        raise ValueError("something follows the object")


def _entries(pieces: _Pieces) -> Iterator[Any]:
    """Entries of a list whose bracket is taken already."""
    with _explained():
        more = not pieces.take_if("]")
        while more:
            yield pieces.value()
            more = pieces.take(",]") == ","


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say in one line what is wrong with a file."""
    try:
        yield
    except U2SegError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"it can't be read as JSON: {' '.join(str(error).split())[:200]}") from error


class _Pieces:
    """The text of a file, of which one piece is in memory."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._file, self._text, self._place, self._ended = file, "", 0, False
        self._before = 0
        """Characters of the file before ``_text``."""

    def _grow(self) -> None:
        """Read on: as much again as is not taken yet, so that a long entry is read in few steps."""
        rest = self._text[self._place :]
        addition = self._file.read(max(PIECE, len(rest)))
        self._before += self._place
        self._text, self._place, self._ended = rest + addition, 0, not addition

    def sign(self) -> str:
        """The next character that is no space, or "" at the end of the file; it is not taken."""
        while True:
            match = _SPACE.match(self._text, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._grow()

    def take_if(self, sign: str) -> bool:
        """Take the next character if it is ``sign``; whether it was."""
        taken = self.sign() == sign
        self._place += taken
        return taken

    def take(self, signs: str) -> str:
        """Take the next character.

        Raises:
            ValueError: it is none of ``signs``.
        """
        sign = self.sign()
        if not sign or sign not in signs:
            raise ValueError(f"{sign!r} where one of {signs!r} should be, at character {self._before + self._place}")
        self._place += 1
        return sign

    def value(self) -> Any:
        """Take the next value.

        Raises:
            ValueError: there is none.
        """
        self.sign()
        while True:
            try:
                value, end = _decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise ValueError(f"{error.msg}, at character {self._before + error.pos}") from error
            else:
                if self._ended or end + _LONGEST_REST < len(self._text):
                    self._place = end
                    return value
            self._grow()
