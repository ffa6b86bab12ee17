"""What an episode is paid: its own rewards on the right steps, the same at any end, and the shuffled control."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmalign.errors import UserError
from mmalign.modalities.robot import RobotAdapter, RobotOptions
from mmalign.objectives.advantage import gae
from mmalign.rewards.sweep import EpisodeReward
from mmalign.rng import generator
from mmalign.testing.conformance import reward_suite
from mmalign.types import Rollout
from mmalign.worlds import sweep


def rolled(max_steps: int = 20, **options: object) -> Rollout:
    adapter = RobotAdapter(RobotOptions.model_validate({"width": 8, "layers": 1, **options}))
    model = adapter.load("robot:0")
    return adapter.sample(model, sweep.rows("train", 6), 1, generator(0, "x"), max_steps=max_steps)


@pytest.mark.parametrize("options", [{}, {"policy": "diffusion", "chunk": 3, "denoise_steps": 2}])
def test_every_reward_is_paid_once(options: dict[str, object]) -> None:
    rollout = rolled(**options)
    reward = EpisodeReward(environment=2.0, progress=1.0, approach=0.5, success=3.0, step=-0.01)
    assert reward_suite(reward, rollout)
    made = reward(rollout)
    for b, row in enumerate(rollout.rows):
        episode = row.completion
        change = episode.potential[-1, 0] - episode.potential[0, 0]
        assert float(made.parts["progress"][b].sum()) == pytest.approx(float(change), abs=1e-5)
        assert float(made.parts["environment"][b].sum()) == pytest.approx(
            2 * float(episode.rewards.sum()), abs=1e-5
        )
        assert float(made.parts["step"][b].sum()) == pytest.approx(-0.01 * len(episode), abs=1e-5)
        assert float(made.parts["success"][b].sum()) == 3.0 * episode.succeeded
    paid = made.parts["step"] != 0
    assert torch.equal(
        paid.sum(1), torch.tensor([len(set(row.steps.earned.tolist())) for row in rollout.rows])
    )


def test_the_approach_is_not_paid_where_a_block_arrives() -> None:
    """Another block becomes the nearest then, which would look like a retreat."""
    adapter = RobotAdapter(RobotOptions(width=8, layers=1))
    model = adapter.load("robot:0")
    expert = sweep.rows("train", 12, kind="caption", skill=sweep.PERFECT)[0].completion
    assert (expert.rewards > 0).sum() >= 2
    rollout = rolled()
    row = rollout.rows[0]
    from dataclasses import replace

    from mmalign.modalities.robot.given import decisions_of

    given = replace(row, completion=expert)
    given = replace(given, steps=decisions_of(given, model))
    mask = torch.ones(1, len(expert), dtype=torch.bool)
    alone = Rollout((given,), torch.zeros(1, len(expert)), mask, torch.ones(1), torch.zeros(1))
    part = EpisodeReward(environment=0.0, approach=1.0)(alone).per_step[0]
    assert not part[torch.from_numpy(expert.rewards) > 0].any() and float(part.min()) > -0.2


def test_nothing_is_added_where_the_limit_cuts() -> None:
    """The stated absence of bootstrapping: the last advantage of a cut episode knows its last reward alone."""
    rollout = rolled(max_steps=5)
    assert all(row.completion.truncated for row in rollout.rows) and not rollout.finished.any()
    made = EpisodeReward(environment=0.0, progress=1.0)(rollout)
    values = torch.rand(made.per_step.shape)
    advantages, _ = gae(made.per_step, values, rollout.mask, 0.99, 0.95)
    assert torch.allclose(advantages[:, -1], made.per_step[:, -1] - values[:, -1])
    assert all(row.completion.observations[-1][-1] == np.float32(5 / 80) for row in rollout.rows)


def test_the_control_pays_somebody_elses_rewards() -> None:
    rollout = rolled()
    own = EpisodeReward(environment=0.0, approach=1.0)(rollout).per_step.sum(1)
    other = EpisodeReward(environment=0.0, approach=1.0, shuffle=0)(rollout).per_step.sum(1)
    assert torch.allclose(own.sort().values, other.sort().values, atol=1e-5)
    assert not bool(torch.isclose(own, other, atol=1e-6).any())


def test_what_cannot_be_paid_is_named() -> None:
    with pytest.raises(UserError, match="nothing is rewarded"):
        EpisodeReward(environment=0.0)
    adapter = RobotAdapter(RobotOptions(environment="gymnasium:Pendulum-v1", width=8, layers=1))
    from mmalign.worlds import seeds

    rollout = adapter.sample(
        adapter.load("robot:0"), seeds.rows("train", 2), 1, generator(0, "x"), max_steps=3
    )
    assert EpisodeReward()(rollout).per_step.shape == (2, 3)
    with pytest.raises(UserError, match="no potential"):
        EpisodeReward(progress=1.0)(rollout)
