"""The public contract for third parties: hooks, contracts of the parts, and checks. Imports pluggy and numpy only."""

from u2seg.plugins.api import hookimpl

__all__ = ["hookimpl"]
