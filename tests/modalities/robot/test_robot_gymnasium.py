"""Any gymnasium environment: the sweep view, boxes and choices, pixels, and what is refused."""

from __future__ import annotations

import importlib.util
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from robot_policies import made

from mmalign.errors import UserError
from mmalign.modalities.robot import RobotAdapter, RobotOptions
from mmalign.rng import generator
from mmalign.worlds import seeds, sweep

ROWS = seeds.rows("train", 3)


@pytest.mark.filterwarnings("ignore")
def test_the_sweep_view_is_one_episode_of_the_batch() -> None:
    env = sweep.sweep_env("goal", "medium")
    check_env(env, skip_render_check=True)
    batch = sweep.SweepBatch([sweep.Start("goal", "medium", 11), sweep.Start("sweep", "short", 1)])
    seen, first = env.reset(seed=11)[0], batch.reset()[0]
    rng = np.random.default_rng(0)
    assert np.array_equal(seen, first)
    for _ in range(20):
        action = rng.uniform(-1, 1, 3)
        observation, reward, ended, cut, info = env.step(action)
        made_ = batch.step(np.stack([action, action]))
        assert np.array_equal(observation, made_.observation[0]) and reward == made_.reward[0]
        assert (ended, cut) == (made_.terminated[0], made_.truncated[0]) and info["success"] == made_.success[
            0
        ]
    assert np.array_equal(env.render(), batch.frames()[0])


def test_episodes_are_gymnasiums_own() -> None:
    """Stepping the environment by hand with the recorded actions gives the recorded rewards."""
    adapter, model = made(environment="gymnasium:Pendulum-v1", max_episode_steps=12)
    rollout = adapter.sample(model, ROWS, 1, generator(0, "x"), max_steps=12)
    for row in rollout.rows:
        env = gymnasium.make("Pendulum-v1")
        seen, _ = env.reset(seed=int(row.prompt))
        assert np.allclose(row.completion.observations[0][:-1], seen)
        for action, reward in zip(row.completion.actions, row.completion.rewards, strict=True):
            assert float(env.step(np.float32(2.0) * action)[1]) == pytest.approx(float(reward), abs=1e-5)
        assert row.completion.truncated and not row.completion.terminated
        assert row.completion.observations[-1][-1] == pytest.approx(1.0)


def test_choices_need_tokens() -> None:
    with pytest.raises(UserError, match="need tokens"):
        RobotAdapter(RobotOptions(environment="gymnasium:CartPole-v1")).load("robot:0")
    adapter, model = made(environment="gymnasium:CartPole-v1", policy="tokens")
    assert model.make.bins == 2 and model.make.actions == 1
    rollout = adapter.sample(model, ROWS, 1, generator(0, "x"), max_steps=60)
    assert all(row.completion.terminated for row in rollout.rows) and rollout.finished.all()
    assert len({len(row.completion) for row in rollout.rows}) > 1
    scored = adapter.logp(model, adapter.collate(rollout.rows))
    assert float((scored.values - rollout.logp)[rollout.mask].abs().max()) < 1e-5


def test_unknown_environments_are_named() -> None:
    with pytest.raises(UserError, match="Nowhere-v0"):
        RobotAdapter(RobotOptions(environment="gymnasium:Nowhere-v0")).load("robot:0")
    with pytest.raises(UserError, match="not installed"):
        RobotAdapter(RobotOptions(environment="gymnasium:nowhere_at_all:Nowhere-v0")).load("robot:0")
    with pytest.raises(UserError, match="wrong"):
        RobotAdapter(RobotOptions(environment="gymnasium:Pendulum-v1?wrong=1")).load("robot:0")


def test_arguments_reach_the_environment() -> None:
    adapter, model = made(environment="gymnasium:Pendulum-v1?g=0.0", max_episode_steps=3)
    row = adapter.sample(model, ROWS[:1], 1, generator(0, "x"), max_steps=3).rows[0]
    env = gymnasium.make("Pendulum-v1", g=0.0)
    env.reset(seed=int(row.prompt))
    earned = [float(env.step(np.float32(2.0) * action)[1]) for action in row.completion.actions]
    assert earned == pytest.approx(row.completion.rewards.tolist(), abs=1e-5)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


OUTSIDE: list[tuple[str, dict[str, Any]]] = []
if _has("gym_pusht"):
    OUTSIDE += [
        ("gym_pusht:gym_pusht/PushT-v0", {"policy": "diffusion"}),
        ("gym_pusht:gym_pusht/PushT-v0", {"observe": "pixels"}),
    ]
if _has("metaworld"):
    OUTSIDE += [("metaworld:Meta-World/MT1?env_name=reach-v3&seed=7", {})]


@pytest.mark.parametrize(("name", "options"), OUTSIDE)
def test_environments_from_elsewhere(name: str, options: dict[str, Any]) -> None:
    """Push-T and Meta-World, where they are installed (extra ``robot``)."""
    adapter, model = made(environment=f"gymnasium:{name}", max_episode_steps=8, **options)
    rollout = adapter.sample(model, ROWS, 1, generator(0, "x"), max_steps=24)
    scored = adapter.logp(model, adapter.collate(rollout.rows))
    assert float((scored.values - rollout.logp)[rollout.mask].abs().max()) < 1e-5
    assert all(len(row.completion) == 8 and row.completion.truncated for row in rollout.rows)
    assert torch.isfinite(torch.tensor([float(row.completion.rewards.sum()) for row in rollout.rows])).all()
