"""Files of weights, opened in one checked way: regular, of a sound size, undamaged, and of tensors alone.

=================== =================================================================================================
``.safetensors``    the library checks the header against the file
``.pkl``            arrays of Detectron2's model zoo, by an unpickler that makes nothing else
any other           torch's, new (a zip file) or old, by torch's own unpickler of weights alone
=================== =================================================================================================

A zip file of torch's has its members uncompressed, each with a checksum: one that claims to unpack to more than it is,
or in which a bit has changed, is refused before torch sees it. The other kinds carry no checksum. Of what torch's own
unpickler takes, only what tensors and plain values consist of is let through: the rest can make a small file large.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, open_regular, write_bytes

MOST_SHARING = 4
"""Times the size of its file that all tensors together may have: several may show the same bytes, as tied layers do."""
_ARRAYS = re.compile(
    r"numpy dtype|numpy\._?core\.multiarray (_reconstruct|scalar)|collections OrderedDict|_codecs encode"
)
"""Module and name of what a ``.pkl`` may name, beside numpy's ndarray."""
_PLAIN = re.compile(
    r"torch (\w+Storage|Size|device|b?float\w*|complex\w*|u?int\d+|bool)"
    r"|torch\.storage (Untyped|Typed)Storage"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?)"
    r"|torch\._tensor _rebuild_from_type_v2|torch Tensor|torch\.nn\.parameter Parameter"
    r"|collections (OrderedDict|Counter)|_codecs encode|(__builtin__|builtins) set|argparse Namespace"
    r"|numpy (ndarray|dtype)|numpy\._?core\.multiarray (_reconstruct|scalar)"
)
"""Module and name of what a file of torch's may name."""
_PICKLES = 5
"""Pickled one after the other at the start of an old file of torch's: two marks, the system, the content, the keys."""


def read_weights(path: str | Path) -> Any:
    """What a file of weights holds: tensors, arrays and plain values, as deep in dicts and lists as they were saved.

    Raises:
        UsageError: it can't be opened, or is no regular file.
        DataError: it is damaged, too large, or asks for anything but tensors and plain values.
    """
    with open_weights(path) as file:
        try:
            content = _read(path, file)
            _check_tensors(content, os.fstat(file.fileno()).st_size)
        except Exception as error:  # half a file raises nearly anything
            # never torch's own words, which advise to run what the file carries
            reason = error if isinstance(error, DataError) else type(error).__name__
            raise DataError(f"weights {path} are damaged or no checkpoint: {reason}") from error
    return content


def open_weights(path: str | Path) -> BinaryIO:
    """Open ``path``, a regular file that fits into memory.

    Raises:
        UsageError: it can't be opened, or is no regular file.
        DataError: it is larger than the memory of this machine.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise UsageError(f"weights {path} can't be read: {error.strerror or error}") from error
    size, memory = os.fstat(file.fileno()).st_size, _memory()
    if size > memory:
        file.close()
        raise DataError(f"weights {path} have {size} bytes, more than the {memory} bytes of memory of this machine")
    return file


def write_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` to ``path`` as torch does, with a checksum of each tensor: whole or not at all.

    Raises:
        UsageError: it can't be written; what was there before is still whole.
        OSError: so it is where the disk is full or broken.
    """
    import torch

    stream = io.BytesIO()  # where torch writes to a file itself, it forgets why it could not
    with in_words(path):
        torch.save(content, stream)
        write_bytes(path, stream.getbuffer())


def _memory() -> int:
    """Bytes of memory of this machine; where the system does not tell, no file is too large."""
    if not hasattr(os, "sysconf"):
        return 2**63
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(path: str | Path, file: BinaryIO) -> Any:
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return _ArrayUnpickler(file, encoding="latin1").load() if str(path).endswith(".pkl") else _read_torch(file)


def _read_torch(file: BinaryIO) -> Any:
    import torch

    if file.read(4) == b"PK\x03\x04":
        _check_zip(file)
    else:
        file.seek(0)
        for _ in range(_PICKLES):
            _check_names(file)
    file.seek(0)
    # DINO's full checkpoints keep the command line, a plain bag of values, and some of Detectron2's a numpy number.
    multiarray = (getattr(np, "_core", None) or np.core).multiarray
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")}
    allowed = [argparse.Namespace, np.dtype, np.ndarray, *kinds, multiarray.scalar, multiarray._reconstruct]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is no file of weights is told below, in one line
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_zip(file: BinaryIO) -> None:
    """Raise DataError unless the members are uncompressed, no larger than the file, and as they were written."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise DataError(f"its {size} bytes unpack to {unpacked}, and torch packs nothing")
        changed = archive.testzip()
        if changed is not None:
            raise DataError(f"{changed!r} in it has changed since it was written")
        for member in members:
            if member.filename.endswith("data.pkl"):
                _check_names(io.BytesIO(archive.read(member)))


def _check_names(stream: BinaryIO) -> None:
    """Raise DataError unless the pickle that ``stream`` is at names plain things alone. Nothing is run."""
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL" and not _PLAIN.fullmatch(str(argument)):
            raise DataError(f"it asks for {str(argument).replace(' ', '.')}, which is no tensor")


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickles arrays and plain containers, nothing else.

    It is Python's own, not the one in C, which makes room for as many objects as a file of ten bytes says.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return name  # nothing that could be called: it is an argument of _reconstruct
        if not _ARRAYS.fullmatch(f"{module} {name}"):
            raise DataError(f"it asks for {module}.{name}, which is no tensor")
        if name == "_reconstruct":
            return lambda *_: np.empty(0, np.int8)  # before shape and values are read, whatever size the file asks for
        return super().find_class(module, name)


def _check_tensors(content: Any, size: int) -> None:
    """Raise DataError unless the tensors in ``content`` are plain ones, and no larger than a file of ``size`` bytes."""
    import torch

    total, seen, pending = 0, set(), [content]
    while pending:  # no recursion: a file may nest without end, or into itself
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
                raise DataError("it holds a tensor that is sparse, quantized or empty of values")
            total += value.numel() * value.element_size()
        elif isinstance(value, np.ndarray):
            total += value.size * value.itemsize
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pending += value.values() if isinstance(value, Mapping) else value
    if total > MOST_SHARING * size:
        raise DataError(f"its {size} bytes claim to be tensors of {total}")
