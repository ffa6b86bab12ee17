"""A scripted modality: answers are a function of the row and of its random stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.stats.composite import mean
from mmalign.types import Rollout, Row

WORDS = ("yes .", "no .", "yes", "no")


class ScriptedAdapter:
    """Draws one of four words per row; ``bad`` rows raise; every call is counted."""

    name = "scripted"

    def __init__(self, bad: Sequence[str] = (), *, row_streams: bool = True) -> None:
        self.bad, self.row_streams, self.calls, self.asked = set(bad), row_streams, 0, 0

    def sample(
        self,
        model: Any,
        rows: Sequence[Row],
        n: int,
        rng: Any,
        *,
        temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:
        """One word per row from its own stream, or from the batch's."""
        self.calls += 1
        self.asked += len(rows)
        if any(row.id in self.bad for row in rows):
            raise ValueError("this picture is truncated")
        answered = []
        for number, row in enumerate(rows):
            stream = rng[number] if isinstance(rng, list) else rng
            pick = int(torch.randint(4, (1,), generator=stream)) if temperature > 0 else 0
            answered.append(replace(row, completion=WORDS[pick]))
        ones = torch.ones(len(rows), 2)
        return Rollout(tuple(answered), -ones, ones > 0, torch.ones(len(rows)) > 0, torch.arange(len(rows)))


class YesTask:
    """Is the answer yes?  Ten rows, two per cluster."""

    name, version, parser_label, data_info = "yes-task", "1", "word.v1", {"source": "test", "split": "test"}
    composites: Mapping[str, Any] = {"yes": mean("yes", higher_is_better=True)}
    n = 10

    def rows(self) -> list[Row]:
        """Rows with stable ids."""
        return [
            Row(id=f"r{k}", prompt=f"question {k}", meta={"label": "yes", "cluster": k // 2})
            for k in range(self.n)
        ]

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """1 for yes."""
        return {"parsed": output, "parse_ok": True, "scores": {"yes": int(output.startswith("yes"))}}

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The share of yes."""
        return {name: composite.record(samples) for name, composite in self.composites.items()}


@pytest.fixture
def scripted() -> type[ScriptedAdapter]:
    """The adapter's class."""
    return ScriptedAdapter


@pytest.fixture
def task() -> YesTask:
    """The task."""
    return YesTask()


@pytest.fixture
def lines() -> Any:
    """The lines of an evaluation's samples, sorted, so that order does not matter."""
    return lambda folder: sorted((Path(folder) / "samples.jsonl").read_text().splitlines())
