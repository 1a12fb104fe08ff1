"""Unsupervised universal image segmentation on Detectron2: labels from unlabelled photos, a model, honest scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from u2seg.errors import DataError, PluginError, U2SegError, UsageError
from u2seg.plugins.api import hookimpl
from u2seg.structures import LabelSpace, MaskSet, PanopticLabel, Segment

if TYPE_CHECKING:
    from u2seg.config import add_u2seg_config
    from u2seg.engine.predictor import Predictor

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "LabelSpace",
    "MaskSet",
    "PanopticLabel",
    "PluginError",
    "Predictor",
    "Segment",
    "U2SegError",
    "UsageError",
    "__version__",
    "add_u2seg_config",
    "hookimpl",
]

_LAZY = {"Predictor": "u2seg.engine.predictor", "add_u2seg_config": "u2seg.config"}


def __getattr__(name: str) -> Any:
    """Import what is heavier than numpy when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'u2seg' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
