"""The claim sweep-ppo on numbers made up: equal work, controls, baselines, and what a missing arm does to a verdict."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import mmalign.claims.run as runner
from mmalign.benchmarks.claims import sweep_ppo
from mmalign.claims.plan import check_equal


def test_trained_arms_are_held_equal_but_for_the_shuffle() -> None:
    keys = check_equal(sweep_ppo.CLAIM, quick=False)
    assert "ppo.max_steps" in keys and "sft.max_steps" in keys
    assert not any(key.startswith("reward.options") for key in keys)


@pytest.mark.slow
def test_the_claim_runs_in_quick_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {**dict(sweep_ppo.CLAIM.quick), "sft.max_steps": 4, "evaluate.n": 8}
    claim = replace(sweep_ppo.CLAIM, quick=few)
    monkeypatch.setattr(runner, "find_claim", lambda _: claim)
    console = Console(file=io.StringIO())
    runner.run_claim("sweep-ppo", seeds=1, quick=True, output_dir=tmp_path, workers=0, console=console)
    verdicts = {s["id"]: s for s in json.loads((tmp_path / "claim.json").read_text())["statements"]}
    assert verdicts["E1"]["verdict"] == "holds" and verdicts["E1"]["value"] == 2.0
    assert set(verdicts) == {"E1", "S1", "S2", "S3", "A1", "B1", "B2", "L1", "K1"}
    assert all("no metric" not in s["measured"] and "has no" not in s["measured"] for s in verdicts.values())
