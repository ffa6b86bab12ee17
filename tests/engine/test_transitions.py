"""The trainer of transitions: it learns a corridor, resumes bit for bit, stores what it should, resets when it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.config.transitions import TransitionsConfig
from mmalign.engine.loop import run_loop
from mmalign.engine.transitions.actor import squashed_draw, squashed_logp
from mmalign.engine.transitions.store import TransitionStore
from mmalign.engine.transitions.trajectory import (
    Trajectory,
    best,
    read_trajectories,
    rewarded,
    write_trajectories,
)
from mmalign.errors import UserError
from mmalign.objectives.value_based import td_loss
from mmalign.types import StepReward
from tests.engine.corridor import Walker, make, recorded, success
from tests.engine.settings import ListSink


def config(**changes: Any) -> TransitionsConfig:
    settings: dict[str, Any] = dict(
        offline_steps=6, updates=20, gamma=0.95, learning_rate=3e-3, critic_learning_rate=3e-3, batch_size=64,
        critic_width=32, n_actions=3, reward_scale=10.0,
    )  # fmt: skip
    return TransitionsConfig(**(settings | changes))


def trained(cfg: TransitionsConfig, folder: Path, drift: float = 0.15, seed: int = 0) -> torch.nn.Module:
    trainer, policy = make(cfg, folder, recorded(60, drift, seed), seed)
    for step in range(1, cfg.max_steps + 1):
        trainer.step(step)
    return policy


def test_cal_ql_arrives_sooner_than_the_walks_it_learned_from(tmp_path: Path) -> None:
    quick = sum(row.steps.arrived and len(row.steps.actions) <= 25 for row in recorded(60, 0.3)) / 60
    cfg = config(
        algorithm="cal_ql",
        reward_scale=1.0,
        cql_weight=5.0,
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        updates=50,
    )
    assert success(trained(cfg, tmp_path, 0.3), temperature=1.0, most=25) > quick + 0.5


def test_iql_arrives_sooner_than_cloning(tmp_path: Path) -> None:
    most, share = 30, {}
    for algorithm in ("bc", "iql"):
        cfg = config(algorithm=algorithm, offline_steps=12, awr_temperature=10.0, expectile=0.9)
        share[algorithm] = success(trained(cfg, tmp_path / algorithm, 0.3), temperature=1.0, most=most)
    assert share["iql"] > share["bc"] + 0.15


def test_sac_learns_online_from_its_own_walks(tmp_path: Path) -> None:
    cfg = config(
        algorithm="sac", offline_steps=2, online_steps=14, episodes=3, offline_share=0.25, backup="entropy"
    )
    policy = trained(cfg, tmp_path, 0.3)
    assert success(policy, temperature=1.0, most=25) > 0.9


def run(folder: Path, steps: int, sink: ListSink, stop: int | None = None) -> torch.nn.Module:
    cfg = config(offline_steps=2, online_steps=4, updates=3, continuing=True, reset_every=3, episodes=2)
    trainer, policy = make(cfg, folder, recorded(20, 0.3))

    def step_fn(step: int) -> Any:
        if stop is not None and step > stop:
            raise RuntimeError("killed")
        return trainer.step(step)

    run_loop(
        step_fn,
        trainer.state,
        name="offline_rl",
        seed=0,
        max_steps=steps,
        folder=folder,
        save_steps=2,
        sink=sink,
    )
    return policy


def test_a_killed_run_ends_with_the_same_numbers_and_weights(tmp_path: Path) -> None:
    whole, again = ListSink(), ListSink()
    one = run(tmp_path / "whole", 6, whole)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "killed", 6, again, stop=5)
    other = run(tmp_path / "killed", 6, again)
    assert whole.records == again.records
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert any(metrics["collect/resets"] == 3 for _, metrics in whole.records if "collect/resets" in metrics)


def test_without_resets_the_next_walk_starts_where_the_last_ended_and_turns_round(tmp_path: Path) -> None:
    trainer, _ = make(config(continuing=True, online_steps=1, reset_every=4), tmp_path, recorded(4, 0.3))
    made, numbers = trainer.collect(6, torch.Generator().manual_seed(0))
    for k in (1, 2, 3, 5):
        assert float(made[k].observations[0, 0]) == float(made[k - 1].observations[-1, 0])
        assert float(made[k].observations[0, 1]) == -float(made[k - 1].observations[0, 1])
    assert numbers["collect/resets"] == 2 and float(made[4].observations[0, 1]) == 1.0


def test_the_actors_gradient_does_not_touch_the_critics(tmp_path: Path) -> None:
    """All losses go through one backward: the critics' gradient must be that of the TD loss alone."""
    cfg = config(algorithm="sac", backup="mean", n_actions=1, tune_alpha=False)
    trainer, _ = make(cfg, tmp_path, recorded(10, 0.3))
    learner = trainer.learner
    batch = trainer.recorded.sample(16, torch.Generator().manual_seed(1))
    seed = 5
    learner.loss(batch, torch.Generator().manual_seed(seed), online=False).value.backward()
    found = [p.grad.clone() for p in learner.critics.parameters() if p.grad is not None]
    learner.critics.zero_grad()
    rng = torch.Generator().manual_seed(seed)
    learner.adapter.propose(learner.policy, batch.observation, rng)
    action, logp = learner._many(batch.next_observation, rng)
    target = learner._target(batch, action, logp, torch.tensor(cfg.alpha))
    td_loss(learner.critics(batch.observation, batch.action), target).backward()
    wanted = [p.grad for p in learner.critics.parameters()]
    assert len(found) == len(wanted) > 0
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, wanted, strict=True))
    assert any(float(p.grad.abs().sum()) > 0 for p in learner.policy.parameters())


def test_every_rate_falls_over_the_whole_stage(tmp_path: Path) -> None:
    cfg = config(
        offline_steps=2, online_steps=2, updates=1, lr_scheduler_type="linear", critic_learning_rate=6e-3
    )
    trainer, _ = make(cfg, tmp_path, recorded(8, 0.3))
    for step, factor in enumerate((0.775, 0.55, 0.325, 0.1), 1):
        trainer.step(step)
        rates = {group["name"]: group["lr"] for group in trainer.state.optimizer.param_groups}
        assert rates["policy"] == pytest.approx(3e-3 * factor)
        assert rates["critics"] == pytest.approx(6e-3 * factor)


def test_slow_critics_move_by_the_rate(tmp_path: Path) -> None:
    trainer, _ = make(config(target_rate=0.25), tmp_path, recorded(4, 0.3))
    learner = trainer.learner
    with torch.no_grad():
        for parameter in learner.critics.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in learner.target.values]
    learner.after()
    assert all(
        torch.allclose(new, 0.75 * old + 0.25 * now)
        for new, old, now in zip(learner.target.values, before, learner.critics.parameters(), strict=True)
    )


def stretch(rewards: list[float], terminal: bool, start: float = 0.0) -> Trajectory:
    n = len(rewards)
    seen = torch.arange(n + 1, dtype=torch.float32)[:, None] + start
    return Trajectory(seen, torch.zeros(n, 1), torch.tensor(rewards), terminal, {"success": float(terminal)})


def test_store_scales_before_it_sums_and_cuts_where_trajectories_end() -> None:
    store = TransitionStore(0.5, scale=10.0, bias=-1.0, tail="last")
    store.add([stretch([0, 1], True), stretch([0, 0], False, 10.0)])
    whole = store.everything()
    assert whole.reward.tolist() == [-1, 9, -1, -1]
    assert whole.mc_return.tolist() == [3.5, 9.0, -2.0, -2.0]
    assert whole.terminal.tolist() == [False, True, False, False]
    assert whole.next_observation[:, 0].tolist() == [1, 2, 11, 12]


def test_store_forgets_whole_trajectories_the_oldest_first() -> None:
    store = TransitionStore(0.9, capacity=4)
    store.add([stretch([1, 1, 1], True), stretch([2, 2], True), stretch([3, 3], True)])
    assert store.everything().reward.tolist() == [2, 2, 3, 3]


def test_trajectories_survive_the_disk(tmp_path: Path) -> None:
    made = [stretch([0.1, 0.2], True), stretch([0.3], False, 4.0)]
    write_trajectories(tmp_path / "x" / "1.safetensors", made)
    read = read_trajectories(tmp_path / "x" / "1.safetensors")
    for a, b in zip(made, read, strict=True):
        assert torch.equal(a.observations, b.observations) and torch.equal(a.rewards, b.rewards)
        assert a.terminal == b.terminal


def test_a_reward_of_ones_own_may_end_a_trajectory() -> None:
    per_step = torch.tensor([[0.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
    reward = StepReward(per_step, {}, {"terminal_step": torch.tensor([1.0, -1.0])})
    cut, open_ = rewarded([stretch([0, 0, 0], False), stretch([1, 1], True)], reward)
    assert (len(cut), cut.terminal, cut.rewards.tolist()) == (2, True, [0.0, 1.0])
    assert (len(open_), open_.terminal, open_.rewards.tolist()) == (2, False, [0.0, 0.0])


def test_the_best_share_is_kept_in_order_and_never_nothing() -> None:
    made = [stretch([total], False) for total in (1.0, 3.0, 2.0, 3.0, 0.0)]
    assert [float(t.rewards.sum()) for t in best(made, 0.6)] == [3.0, 2.0, 3.0]
    assert [float(t.rewards.sum()) for t in best(made, 0.01)] == [3.0] and len(best(made, 1.0)) == 5


def test_squashed_density_integrates_to_one_and_agrees_with_the_draw() -> None:
    mean, log_std = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64)
    grid = torch.linspace(-1, 1, 200001, dtype=torch.float64)[1:-1, None]
    density = squashed_logp(mean, log_std, grid, 1e-12).exp()
    assert float(density.sum() * 2 / 200000) == pytest.approx(1.0, abs=1e-4)
    noise = torch.tensor([[0.7]], dtype=torch.float64)
    action, logp = squashed_draw(mean, log_std, noise)
    assert float(squashed_logp(mean, log_std, action, 1e-12)) == pytest.approx(float(logp))


def test_collecting_needs_the_capabilities(tmp_path: Path) -> None:
    from mmalign.engine.transitions.collect import EpisodeCollector

    class Bare:
        name = "bare"

    with pytest.raises(UserError, match="Samples"):
        EpisodeCollector(Bare(), Walker(), [], config())
    with pytest.raises(ValueError, match="reset_every"):
        config(reset_every=2)
