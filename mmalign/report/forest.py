"""Where the dots and whiskers of a before/after line stand on their common axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.report.headline import Line

__all__ = ["Scale"]


class Scale:
    """Maps the values of one line to 0..100; percentages share the axis 0 to 100 %, others start at 0."""

    def __init__(self, line: Line) -> None:
        """Choose the axis of ``line``."""
        entries = [entry for entry in (line.before, line.after) if entry]
        highest = max((e.get("ci_high") or e.get("value") or 0.0) for e in entries)
        lowest = min((e.get("ci_low") or e.get("value") or 0.0) for e in entries)
        self.low = 0.0 if line.percent else min(0.0, lowest)
        self.high = 1.0 if line.percent else (highest * 1.15 or 1.0)

    def at(self, value: float | None) -> float | None:
        """The place of a value, 0 to 100, or None."""
        if value is None:
            return None
        place = 100 * (value - self.low) / ((self.high - self.low) or 1.0)
        return round(min(100.0, max(0.0, place)), 2)

    def mark(self, entry: Mapping[str, Any] | None) -> dict[str, float | None]:
        """``x``, ``low`` and ``high`` of an entry; None where there is none."""
        found = entry or {}
        return {
            "x": self.at(found.get("value")),
            "low": self.at(found.get("ci_low")),
            "high": self.at(found.get("ci_high")),
        }
