"""A stage's metrics: ``metrics.jsonl`` always, trackers beside it, times in a file of their own.

Times stay out of ``metrics.jsonl`` so that a resumed run's file equals an uninterrupted one's byte
for byte.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmalign import registry
from mmalign.engine.atomic import write_text
from mmalign.errors import UserError
from mmalign.protocols import Tracker

__all__ = ["StageSink"]


class StageSink:
    """Appends one flushed JSON line per step and mirrors it to the configured trackers."""

    def __init__(self, run_dir: Path, stage: str, report_to: Sequence[str] = ()) -> None:
        self._file = run_dir / "metrics.jsonl"
        self._times = run_dir / "timing.jsonl"
        self._stage = stage
        self._last = time.perf_counter()
        loaded = (registry.load("trackers", name, key="report_to") for name in report_to)
        self._trackers: list[Tracker] = [tracker(run_dir) for tracker in loaded]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one step's metrics.

        Raises:
            UserError: when a metric is not finite.
        """
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise UserError(f"stage {self._stage}, step {step}: metric {bad[0]} is {metrics[bad[0]]}")
        now = time.perf_counter()
        record = {"stage": self._stage, "step": step, **dict(sorted(metrics.items()))}
        _append(self._file, record)
        _append(self._times, {"stage": self._stage, "step": step, "seconds": round(now - self._last, 4)})
        self._last = now
        for tracker in self._trackers:
            tracker.log({f"{self._stage}/{name}": value for name, value in metrics.items()}, step)

    def rewind(self, step: int) -> None:
        """Drop this stage's records after ``step`` and any torn last line."""
        self._last = time.perf_counter()
        for file in (self._file, self._times):
            if file.is_file():
                text = file.read_text(encoding="utf-8")
                kept = [line for line in text.splitlines() if self._keeps(line, step)]
                fresh = "".join(f"{line}\n" for line in kept)
                if fresh != text:
                    write_text(file, fresh)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def _keeps(self, line: str, step: int) -> bool:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return False
        return bool(record["stage"] != self._stage or record["step"] <= step)


def _append(file: Path, record: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
