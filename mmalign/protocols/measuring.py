"""Who answers for truth and numbers: judges, tasks, trackers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mmalign.types import Row

__all__ = ["Judge", "Task", "Tracker"]


@runtime_checkable
class Judge(Protocol):
    """Says of atomic facts about a row's media whether they hold."""

    name: str

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        """One label per fact: -1 false, 0 cannot be judged, +1 true."""
        ...


@runtime_checkable
class Task(Protocol):
    """A benchmark: rows, a named and versioned parser, and metrics computed from samples alone."""

    name: str
    version: str

    def rows(self) -> Iterable[Row]:
        """The rows to answer; ids are stable across runs."""
        ...

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Parse one output: ``{"parsed": ..., "parse_ok": bool, "scores": {...}}``."""
        ...

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """``name -> {value, ci_low, ci_high, method, n, higher_is_better}`` from the samples."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Receives metrics; ``metrics.jsonl`` is always written, trackers mirror it."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...
