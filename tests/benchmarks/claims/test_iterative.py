"""The claims of the iterative methods: definitions, the games and the lake behind them, recorded verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmalign.benchmarks.claims import iterative as shared
from mmalign.benchmarks.claims.nash_games import _fitted, exact_games
from mmalign.claims.plan import check_equal, find_claim
from mmalign.claims.run import run_claim
from mmalign.testing.toy_lake import LakeTask, arrives, rows
from mmalign.testing.toy_world import CYCLE, ToyCycle

NAMES = ("raft", "superhf", "spin", "nash-md", "ift", "rlhf-workflow")
VERDICTS = Path(shared.__file__).parent / "verdicts"


@pytest.mark.parametrize("name", NAMES)
def test_arms_are_held_equal_and_the_recorded_verdict_is_of_this_claim(name: str) -> None:
    claim = find_claim(name)
    assert len(check_equal(claim, quick=False)) > 100
    assert any(
        (s.must_hold and "nothing" in s.text) or "control" in str(claim.arms) for s in claim.statements
    )
    record = json.loads((VERDICTS / f"{name}.json").read_text())
    assert [(s["id"], s["text"], s["must_hold"]) for s in record["statements"]] == [
        (s.id, s.text, s.must_hold) for s in claim.statements
    ]
    assert len(record["seeds"]) >= 3 and not record["quick"] and record["claim"] == name
    assert all(s["verdict"] in ("holds", "fails", "inconclusive") for s in record["statements"])
    numbers = record["arms"]["start"] | {}
    assert all(entry["mean"] is not None for entry in numbers.values())


def test_a_claim_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_claim(
        "raft",
        seeds=1,
        quick=True,
        output_dir=tmp_path,
        workers=0,
        arms=["raft", "shuffled"],
        starts=["toy0"],
    )
    record = json.loads((tmp_path / "claim.json").read_text())
    measured = {s["id"]: s for s in record["statements"]}
    assert measured["R1"]["value"] is not None  # one seed gives no interval, but a number
    assert measured["T2"]["verdict"] == "inconclusive"  # its arm did not run
    assert "train/kl" in record["arms"]["raft"] and len(record["curves"]["raft"]["kl"]) == 2


def test_exact_games_tell_the_methods_apart(tmp_path: Path) -> None:
    ctx: Any = SimpleNamespace(cfg=SimpleNamespace(seed=3), run_dir=tmp_path)
    exact_games(ctx)
    gaps = json.loads((tmp_path / "games.json").read_text())
    assert 0 <= gaps["nash_md"] < 1e-4 < 0.02 < min(gaps["self_play"], gaps["bradley_terry"])


def test_fitted_scores_are_bradley_terry_where_it_holds() -> None:
    scores = torch.tensor([0.3, -1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    found = _fitted(torch.sigmoid(scores[:, None] - scores[None]), torch.full((5,), 0.2, dtype=torch.float64))
    assert torch.allclose(found, scores - scores.mean(), atol=1e-8)


def test_the_circular_judge_adds_up_and_has_no_order() -> None:
    table = torch.tensor(CYCLE)
    assert torch.allclose(table + table.T, torch.ones_like(table))
    judge, row = ToyCycle(), rows("test", 1, 0)[0]
    a, b, c, none = "a . d .", "b .", "c", ". x"
    assert (
        judge.compare(row, a, b) == 0.9
        and judge.compare(row, b, c) == 0.8
        and judge.compare(row, c, a) == 0.7
    )
    assert judge.compare(row, none, a) == 0.05 and judge.compare(row, "", none) == 0.5


@pytest.mark.parametrize(
    ("start", "answer", "good"),
    [
        (0, "b e h i", True),
        (0, "b a b e f i", True),  # wandering, but arriving
        (5, "i", True),
        (0, "b c f i", False),  # a hole
        (0, "e h i", False),  # a jump
        (5, "i h i", False),  # goes on behind the goal
        (0, "b e", False),
        (0, "", False),
        (0, "b . e h i", False),
    ],
)
def test_paths_over_the_lake(start: int, answer: str, good: bool) -> None:
    assert arrives(start, answer) is good


def test_demonstrations_arrive_and_wander() -> None:
    made = rows("train", 200, 0)
    assert all(arrives(row.meta["start"], row.completion) for row in made)
    assert max(len(row.completion.split()) for row in made) == 7
    assert rows("train", 200, 0)[5].completion == made[5].completion != rows("test", 200, 0)[5].completion
    assert all(row.completion is None for row in rows("test", 3, 0, "prompt"))
    task = LakeTask(n=4)
    samples = [task.score(row, "i") for row in task.rows()]
    share = sum(s["scores"]["success"] for s in samples) / 4
    assert task.metrics(samples)["success"]["value"] == share
