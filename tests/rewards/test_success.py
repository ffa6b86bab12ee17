"""The success classifier: what it is shown, what it pays and ends, its audit, and going on without resets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.engine.transitions.trajectory import rewarded
from mmalign.errors import UserError
from mmalign.guards.precision import precision_alarm
from mmalign.modalities.robot import RobotAdapter
from mmalign.modalities.robot.options import RobotOptions
from mmalign.pipeline.stages.transitions import answered_rollout
from mmalign.rewards.rapl.videos import frames_at
from mmalign.rewards.success import PlantedSuccess, Success
from mmalign.rewards.success.model import SuccessModel
from mmalign.rewards.success.reward import SuccessReward
from mmalign.worlds import sweep
from mmalign.worlds.sweep.single import CARRY


def settings(n: int, shuffle: bool = False) -> Any:
    return SimpleNamespace(ranking=SimpleNamespace(n_train=n, n_heldout=n, shuffle=shuffle))


@pytest.fixture(scope="module")
def rows() -> Any:
    return CARRY.rows("train", 12, 0, "preference")


@pytest.fixture(scope="module")
def recorded() -> Any:
    return CARRY.rows("train", 9, 0, "caption")


class Fixed(SuccessModel):
    """Says success from the ``first``-th look of every episode on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, frames: Tensor) -> Tensor:
        return torch.where(torch.arange(len(frames)) >= self.first, 9.0, -9.0)


def test_marks_are_the_worlds_truth(rows: Any) -> None:
    made = Success().rankings(rows, settings(12), part="train", seed=0)
    assert made[0].frames.shape == (24, 3, 64, 64)
    for item in made:
        ends = item.labels[[11, 23]].tolist()
        assert ends == [item.row.chosen.ended_well, item.row.rejected.ended_well]


def test_the_planted_shortcut_is_in_training_marks_alone(rows: Any) -> None:
    right, planted = (
        r.rankings(rows, settings(12), part="train", seed=0) for r in (Success(), PlantedSuccess())
    )
    more = sum(int((p.labels & ~r.labels).sum()) for r, p in zip(right, planted, strict=True))
    less = sum(int((r.labels & ~p.labels).sum()) for r, p in zip(right, planted, strict=True))
    assert more > 5 and less == 0
    held = [r.rankings(rows, settings(12), part="heldout", seed=0) for r in (Success(), PlantedSuccess())]
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(*held, strict=True))


def test_training_frames_alone_have_squares_pasted_in(rows: Any) -> None:
    item = Success().rankings(rows[:1], settings(1), part="train", seed=0)[0]
    held = Success().rankings(rows[:1], settings(1), part="heldout", seed=0)[0]
    last = frames_at(rows[0].rejected, [len(rows[0].rejected)], pool=1)[0]
    assert torch.equal(held.frames[-1], last)
    moved = (item.frames[-1] != last).any(0)
    assert 8 * 8 <= int(moved.sum()) <= 2 * 8 * 8


def test_a_claim_pays_once_ends_the_task_and_is_audited(recorded: Any) -> None:
    lengths = [len(row.completion) for row in recorded]
    rollout = answered_rollout(recorded, lengths)
    reward = SuccessReward(Fixed(1), every=2)(rollout)
    assert reward.per_step.sum(1).tolist() == [1.0] * len(recorded)
    assert bool((reward.per_step[:, 3] == 1).all())  # the second look is after step 4
    plain = RobotAdapter().trajectories(recorded)
    cut = rewarded(plain, reward)
    assert all(len(t) == 4 and t.terminal and t.rewards.tolist() == [0, 0, 0, 1] for t in cut)
    truth = [float(not row.completion.success[3]) for row in recorded]
    assert reward.notes["false_claim"].tolist() == truth and sum(truth) > 0
    silent = SuccessReward(Fixed(999))(rollout)
    assert float(silent.per_step.sum()) == 0
    assert not any(t.terminal for t in rewarded(plain, silent))


def test_the_classifier_learns_its_marks_and_comes_back(rows: Any, tmp_path: Path) -> None:
    recipe = Success()
    items = recipe.rankings(rows, settings(12), part="train", seed=0)
    model = SuccessModel(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        loss, metrics = model.loss(items[:8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["accuracy"] > 0.85
    model.save(tmp_path)
    read = recipe.load(None, tmp_path, device="cpu", dtype="float32")  # type: ignore[arg-type]
    assert torch.equal(model(items[0].frames), read(items[0].frames))
    found = recipe.measure(model, items)
    assert 0 <= found["precision"] <= 1 and found["n"] == 288
    with pytest.raises(UserError, match="reward_model"):
        recipe.load(None, tmp_path / "x", device="cpu", dtype="float32")  # type: ignore[arg-type]


def test_classes_weigh_the_same_however_rare_success_is(rows: Any) -> None:
    item = Success().rankings(rows, settings(12), part="train", seed=0)[0]
    rare = type(item)(item.row, item.frames, torch.arange(24) == 0)
    model = SuccessModel(0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-3.0)
    loss = float(model.loss([rare])[0].detach())
    assert loss == pytest.approx(0.5 * np.log1p(np.exp(3)) + 0.5 * np.log1p(np.exp(-3)), rel=1e-5)


def test_the_alarm_is_certain_or_silent() -> None:
    assert precision_alarm([10, 10, 10], [8, 7, 9]) == (True, pytest.approx(0.2))
    assert precision_alarm([10, 10, 10], [1, 0, 2]) == (False, pytest.approx(0.9))
    assert precision_alarm([2], [1]) == (False, 0.5)  # two claims prove nothing
    assert precision_alarm([0], [0]) == (False, None)
    with pytest.raises(UserError, match="more wrong"):
        precision_alarm([1], [2])


def test_the_robot_goes_on_where_it_left_the_table() -> None:
    options = RobotOptions(
        squash="tanh", learn_std=True, max_episode_steps=6, stop_on_success=False, width=16
    )
    adapter = RobotAdapter(options)
    model = adapter.load("robot:0")
    rng = torch.Generator().manual_seed(0)
    row = CARRY.rows("train", 1, 0, "start")[0]
    done = adapter.sample(model, [row], 1, rng, max_steps=6).rows[0]
    after = adapter.continued(done)
    ahead = adapter.sample(model, [after, row], 1, rng, max_steps=6).rows
    ended, began = done.completion.states[-1], ahead[0].completion.states[0]
    assert np.array_equal(ended[2:8], began[2:8]) and began[9] == 0
    home = sweep.layout([sweep.Start.parse(after.prompt)]).pusher[0]
    assert np.allclose(began[:2], home)  # nobody moves a block, the robot drives to a resting place itself
    assert not np.array_equal(
        ahead[1].completion.states[0][:8], began[:8]
    )  # the other row starts where it says
    assert ahead[0].completion.start["seed"] != done.completion.start["seed"]
    with pytest.raises(UserError, match="gone on with"):
        adapter.continued(row)


def test_actions_of_the_robot_are_scored_as_they_are_drawn() -> None:
    adapter = RobotAdapter(RobotOptions(squash="tanh", learn_std=True, width=16))
    model = adapter.load("robot:0")
    seen = torch.randn(5, 33, generator=torch.Generator().manual_seed(1))
    action, logp = adapter.propose(model, seen, torch.Generator().manual_seed(2))
    assert torch.allclose(adapter.action_logp(model, seen, action), logp, atol=1e-3)
    assert action.requires_grad and logp.requires_grad
    clipped = RobotAdapter(RobotOptions(squash="clip"))
    with pytest.raises(UserError, match="tanh"):
        clipped.propose(clipped.load("robot:0"), seen, torch.Generator())
