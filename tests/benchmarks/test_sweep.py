"""Outcomes of episodes as metrics: which success, whose, with Wilson intervals; and the environment bench agrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmalign.benchmarks.bench.env_steps import EnvironmentSetting
from mmalign.benchmarks.tasks.sweep import Episodes, SweepTask
from mmalign.errors import UserError
from mmalign.evals.task import load_task
from mmalign.stats.intervals import wilson
from mmalign.worlds import sweep


def test_experts_are_scored_as_they_did() -> None:
    task = load_task("sweep", {"n": 32, "split": "validation"})
    rows = list(task.rows())
    episodes = sweep.play(
        [sweep.Start.parse(row.prompt) for row in rows], skill=sweep.Skill(noise=1.0, pause=0.4)
    )
    samples = [{"id": row.id, **task.score(row, e)} for row, e in zip(rows, episodes, strict=True)]
    metrics = task.metrics(samples)
    right = sum(episode.succeeded for episode in episodes)
    assert 0 < right < 32
    expected = wilson(right, 32)
    assert metrics["success"]["value"] == right / 32 and metrics["success"]["method"] == expected.method
    assert metrics["success"]["ci_low"] == pytest.approx(expected.ci_low)
    own = [
        e.succeeded for row, e in zip(rows, episodes, strict=True) if row.meta["embodiment"] == sweep.HELD_OUT
    ]
    assert metrics[f"success/{sweep.HELD_OUT}"]["value"] == np.mean(own) and metrics["success/long"][
        "n"
    ] == len(own)
    assert {f"success/{name}" for name in (*sweep.TASKS, *sweep.EMBODIMENTS)} <= set(metrics)
    lost = [s["scores"]["progress"] for s, e in zip(samples, episodes, strict=True) if not e.succeeded]
    assert all(value < 1.0 for value in lost)


def test_success_at_any_step_and_at_the_end_differ() -> None:
    episode = sweep.play([sweep.Start("goal", "gripper", 1)])[0]
    lost = replace(episode, success=np.append(episode.success[:-2], [True, False]))
    scores = SweepTask(n=1).score(SweepTask(n=1).rows()[0], lost)["scores"]
    assert (scores["success"], scores["success_at_end"]) == (1.0, 0.0)


def test_parts_of_the_world_can_be_asked_for() -> None:
    task = SweepTask(n=6, tasks="goal,group", embodiments="long")
    assert {(row.meta["task"], row.meta["embodiment"]) for row in task.rows()} == {
        ("goal", "long"),
        ("group", "long"),
    }
    with pytest.raises(UserError, match="flip"):
        SweepTask(tasks="flip")
    assert not task.score(task.rows()[0], "some words")["parse_ok"]
    assert len({row.prompt for row in Episodes(n=5).rows()}) == 5


def test_the_bench_compares_equal_work() -> None:
    made = EnvironmentSetting(4, 10)(["one-by-one", "vector", "batch"])
    found = {}
    for name, step in made.items():
        step.run(step.prepare())
        found[name] = step.outcome()
    for name in ("vector", "batch"):
        assert torch.equal(found["one-by-one"]["observations"], found[name]["observations"])
        assert torch.allclose(found["one-by-one"]["reward"], found[name]["reward"])


def test_no_episode_of_the_bench_ends_early() -> None:
    """Gymnasium's vector begins an ended episode anew, so that the variants would not do the same work."""
    setting = EnvironmentSetting(256, 60)
    seeds = setting._seeds
    assert len(set(seeds)) == 256
    assert seeds != list(range(1000, 1256))  # somewhere random actions did succeed
    env = sweep.SweepBatch([sweep.Start("group", "short", seed) for seed in seeds])
    env.reset()
    assert not any(env.step(now).terminated.any() for now in setting._actions())
