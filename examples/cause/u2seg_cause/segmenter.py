"""Stuff by a head that `u2seg_cause.model.CAUSE` learnt."""

from __future__ import annotations

from u2seg.stego.segmenter import CodeStuff


class CauseStuff(CodeStuff):
    """CAUSE-MLP (2023): codes by contrast of concepts, each patch to its nearest class by cosine."""

    method = "cause"
