"""What others wrote into JSON files, read in any of the spellings that tools use, or refused in one line.

Every function takes an entry (a JSON object) and a key. The `DataError` that it raises is the end of a sentence, such
as "has the 'id' nan, not a whole number"; `told` puts the subject before it.
"""

from __future__ import annotations

import contextlib
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from u2seg.errors import DataError, UsageError, printable

T = TypeVar("T")
Entry = Mapping[str, Any]

_REQUIRED: Any = object()
_DIGITS = re.compile(r"[+-]?[0-9]{1,20}(\.0+)?")
_IMPOSSIBLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""What no name of a file holds: zero bytes, and halves of surrogate pairs but those that stand for bytes."""
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
LARGEST_NUMBER = 2**63 - 1


def read_json(path: str | Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        UsageError: there is no such file.
        DataError: it holds no JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} can't be read as JSON: {' '.join(str(error).split())[:200]}") from error


def read_json_object(path: str | Path) -> dict[str, Any]:
    """`read_json` of a file that holds an object.

    Raises:
        DataError: it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def told(subject: str, function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)``, its `DataError` told of ``subject``."""
    try:
        return function(*arguments)
    except DataError as error:
        raise DataError(f"{subject} {error}") from error


def entries(content: Entry, key: str) -> list[dict[str, Any]]:
    """The list of objects ``content[key]``."""
    values = content.get(key)
    if not isinstance(values, list):
        raise DataError(f"has no list {key!r}")
    for position, value in enumerate(values):
        an_object(value, position, key)
    return values


def an_object(value: Any, position: int, key: str) -> dict[str, Any]:
    """``value``, entry ``position`` of the list ``key``, which must be an object."""
    if not isinstance(value, dict):
        raise DataError(f"has {_shown(value)} as entry {position} of {key!r}, not an object")
    return value


def whole(entry: Entry, key: str, low: int = 0, high: int = LARGEST_NUMBER, default: Any = _REQUIRED) -> int:
    """A whole number from ``low`` to ``high``, which may be written as 3, 3.0 or "3"."""
    value = entry.get(key)
    if type(value) is int and low <= value <= high:
        return value
    if value is None:
        return _absent(entry, key, default)
    result = int(value.strip().split(".")[0]) if _is_digits(value) else value
    if isinstance(result, float) and result.is_integer():
        result = int(result)
    if isinstance(result, bool) or not isinstance(result, int):
        raise DataError(f"has the {key!r} {_shown(value)}, not a whole number")
    if not low <= result <= high:
        raise DataError(f"has the {key!r} {_shown(value)}, not from {low} to {high}")
    return result


def number(entry: Entry, key: str, default: Any = _REQUIRED) -> float:
    """A finite number, which may be written as text."""
    value = entry.get(key)
    if value is None:
        return _absent(entry, key, default)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and math.isfinite(result := float(value)):
            return result
    raise DataError(f"has the {key!r} {_shown(value)}, which is no number")


def flag(entry: Entry, key: str, default: Any = _REQUIRED) -> bool:
    """A flag, which may be written as true, 1, "1", "true" or "yes"."""
    value = entry.get(key)
    if value is None:
        return _absent(entry, key, default)
    if isinstance(value, str):
        value = _FLAGS.get(value.strip().lower(), value)
    if not isinstance(value, (bool, int, float)) or value not in (0, 1):
        raise DataError(f"has the {key!r} {_shown(value)}, not 0 or 1")
    return bool(value)


def text(entry: Entry, key: str, default: Any = _REQUIRED) -> str:
    """Text that can be printed and written: control characters and halves of surrogate pairs become a sign."""
    value = entry.get(key)
    if value is None:
        return _absent(entry, key, default)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"has the {key!r} {_shown(value)}, not text")
    return printable(" ".join(str(value).split()))


def identity(entry: Entry, key: str) -> int | str:
    """An id that is a number or text; 7, 7.0 and "7" are one and the same."""
    value = entry.get(key)
    if isinstance(value, str) and value.strip() and not _is_digits(value):
        return printable(value.strip())
    return whole(entry, key, -LARGEST_NUMBER)


def file_name(entry: Entry, key: str = "file_name") -> str:
    """A path with slashes, whichever way its separators lean."""
    value = entry.get(key)
    if value is None:
        return _absent(entry, key, _REQUIRED)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"has the {key!r} {_shown(value)}, not a file name")
    if _IMPOSSIBLE.search(value):
        raise DataError(f"has the {key!r} {_shown(value)}, which no file can be called")
    value = value.replace("\\", "/")
    return str(PurePosixPath(value)) if "//" in value or "./" in value or value.endswith("/") else value


def refuse_duplicates(values: Iterable[int | str], what: str, where: str = "") -> None:
    """Raise DataError if one of ``values`` comes twice: "WHAT value WHERE is given twice"."""
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{what} {value!r}{where} is given twice")
        seen.add(value)


def inside(root: Path, name: str) -> Path:
    """``root / name``, for names that come from a file and must not lead out of ``root``.

    Raises:
        DataError: ``name`` leads out of ``root``.
    """
    path = PurePosixPath(name)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    path = PurePosixPath(posixpath.normpath(path))
    if path.is_absolute() or path.parts[:1] in ((), ("..",)) or PureWindowsPath(name).drive:
        raise DataError(f"{name!r} leads out of {root}")
    return root / path


def _absent(entry: Entry, key: str, default: T) -> T:
    if default is _REQUIRED:
        raise DataError(f"has null for {key!r}" if key in entry else f"has no {key!r}")
    return default


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and _DIGITS.fullmatch(value.strip()) is not None


def _shown(value: Any) -> str:
    """``value`` as an error quotes it: on one line, and not for long."""
    try:
        words = repr(value)
    except (ValueError, RecursionError):  # Python prints no whole number of thousands of digits
        words = f"a {type(value).__name__}"
    return words if len(words) <= 60 else f"{words[:57]}..."
