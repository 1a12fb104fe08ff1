"""What a stage leaves for the record: how long it took, and which photos it failed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from u2seg.pseudo.shards import Outcome


@dataclass
class StageNotes:
    """What one stage leaves for the record, and for the stages after it."""

    seconds: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    resumed: bool = False

    def take(self, outcome: Outcome) -> None:
        """Add what a shard reports."""
        self.failures.update(outcome.failures)
        for part, seconds in outcome.seconds.items():
            self.parts[part] = self.parts.get(part, 0.0) + seconds

    def to_json(self) -> dict[str, Any]:
        """For ``stages/<stage>.done``."""
        failures = {str(key): self.failures[key] for key in sorted(self.failures)}
        seconds = {key: round(value, 3) for key, value in sorted(self.parts.items())}
        return {"seconds": round(self.seconds, 3), "parts": seconds, "resumed": self.resumed, "failures": failures}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StageNotes:
        """The inverse of `to_json`."""
        failures = {int(key): reason for key, reason in value["failures"].items()}
        return cls(value["seconds"], failures, dict(value["parts"]), value["resumed"])
