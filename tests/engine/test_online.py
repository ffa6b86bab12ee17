"""The online loop learns the toy task, and its parts behave."""

from __future__ import annotations

import pytest
import torch

from mmalign.engine.experience import make_experience
from mmalign.engine.step import Loss
from mmalign.engine.update import policy_update_loss
from mmalign.errors import UserError
from mmalign.types import Rollout, StepReward
from tests.engine.settings import make_trainer, ppo_settings


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "advantage": "grpo",
            "num_generations": 4,
            "num_ppo_epochs": 1,
            "num_minibatches": 1,
            "rollout_batch_size": 16,
        },
        {
            "advantage": "rloo",
            "num_generations": 4,
            "num_ppo_epochs": 1,
            "num_minibatches": 1,
            "rollout_batch_size": 16,
        },
        {
            "advantage": "grpo",
            "num_generations": 4,
            "dense_advantages": True,
            "kl_placement": "loss",
            "kl_estimator": "k3",
        },
    ],
    ids=["ppo", "grpo", "rloo", "dense-grpo"],
)
def test_learns_the_toy_task(changes: dict[str, object]) -> None:
    trainer = make_trainer(ppo_settings(max_steps=40, **changes))
    rewards = [trainer.step(step)["rewards/mean"] for step in range(1, 41)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.8


def test_a_reward_that_does_not_look_at_the_answer_teaches_nothing() -> None:
    """Control: a reward independent of the answer leaves the share of right answers at its start."""

    class Noise:
        def __call__(self, rollout: Rollout) -> StepReward:
            rng = torch.Generator().manual_seed(len(rollout))
            values = torch.randn(rollout.mask.shape, generator=rng) * rollout.mask
            return StepReward(values, {"noise": values})

    from mmalign.testing.policies import ToyReward

    trainer = make_trainer(ppo_settings(max_steps=15), reward=Noise())
    measured = []
    for step in range(1, 16):
        trainer.step(step)
        scored = trainer.last_rollout
        assert scored is not None
        truth = ToyReward()(Rollout(scored.rows, scored.logp_old, scored.mask, scored.finished, scored.group))
        measured.append(float(truth.per_step.sum(-1).mean()))
    assert abs(sum(measured[-5:]) / 5 - sum(measured[:5]) / 5) < 0.6


def test_kl_has_the_right_sign() -> None:
    """All rewards 0 and a policy off its reference: the mean reward is negative and training lowers the KL."""

    class Nothing:
        def __call__(self, rollout: Rollout) -> StepReward:
            zeros = torch.zeros_like(rollout.logp)
            return StepReward(zeros, {"none": zeros.clone()})

    cfg = ppo_settings(kl_coef=0.5, max_steps=30, whiten_advantages=False, learning_rate=5e-3)
    trainer = make_trainer(cfg, reward=Nothing())
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    kls = [trainer.step(step)["kl"] for step in range(1, 31)]
    assert kls[0] > 0
    assert sum(kls[-5:]) / 5 < 0.7 * sum(kls[:3]) / 3
    assert trainer.last_rollout is not None
    shaped = make_experience(trainer.last_rollout, cfg, 0.5)
    assert shaped.returns is not None


def test_first_update_is_on_policy() -> None:
    """Before any update the ratio is 1, so nothing is clipped and the approximate KL is 0."""
    trainer = make_trainer(ppo_settings(num_ppo_epochs=1, num_minibatches=1, critic_warmup_steps=0))
    metrics = trainer.step(1)
    assert metrics["clip_ratio"] == 0.0
    assert abs(metrics["approx_kl"]) < 1e-9


def test_critic_warm_up_leaves_the_policy_alone() -> None:
    trainer = make_trainer(ppo_settings(critic_warmup_steps=2))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.step(1)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    trainer.step(3)
    assert not all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_early_stop_on_kl() -> None:
    trainer = make_trainer(
        ppo_settings(kl_stop=0.0, learning_rate=5e-2, num_ppo_epochs=8, critic_warmup_steps=0)
    )
    assert trainer.step(1)["stopped_early"] == 1.0


def test_no_update_beyond_the_budget() -> None:
    """The policy moves until its answers are farther from the reference than the budget, and then stands still."""
    trainer = make_trainer(
        ppo_settings(kl_budget=0.5, learning_rate=3e-2, advantage="rloo", num_generations=2, kl_coef=0.0)
    )
    records = [trainer.step(step) for step in range(1, 13)]
    beyond = [record["over_budget"] for record in records]
    assert beyond[0] == 0.0 and 1.0 in beyond
    assert all((record["kl"] > 0.5) == bool(over) for record, over in zip(records, beyond, strict=True))
    assert all(("policy_loss" in record) != bool(over) for record, over in zip(records, beyond, strict=True))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.cfg.kl_budget = 1e-9
    assert trainer.step(13)["over_budget"] == 1.0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_micro_batches_do_not_change_the_gradient() -> None:
    def gradient(size: int) -> torch.Tensor:
        cfg = ppo_settings(per_device_train_batch_size=size, rollout_batch_size=12)
        trainer = make_trainer(cfg)
        scored = trainer._collect(1)
        data = make_experience(scored, cfg, 0.02)
        total = torch.zeros(())
        weight = 0.0
        for start in range(0, 12, size):
            loss: Loss = policy_update_loss(
                trainer.adapter,
                trainer.model,
                trainer.critic,
                data,
                list(range(start, start + size)),
                cfg,
                0.02,
            )
            total, weight = total + loss.value * loss.weight, weight + loss.weight
        grads = torch.autograd.grad(
            total / weight, [p for p in trainer.model.parameters() if p.requires_grad]
        )
        return torch.cat([g.flatten() for g in grads])

    whole = gradient(12)
    for size in (1, 3, 4):
        assert torch.allclose(gradient(size), whole, atol=1e-6)


def test_groups_need_two_answers() -> None:
    with pytest.raises(UserError, match="num_generations: grpo compares answers"):
        make_trainer(ppo_settings(advantage="grpo", num_generations=1))


def test_a_surrogate_score_is_refused() -> None:
    from dataclasses import replace

    trainer = make_trainer(ppo_settings())
    honest = trainer.adapter.logp
    trainer.adapter.logp = lambda *a, **k: replace(honest(*a, **k), surrogate=True)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="surrogate"):
        trainer.step(1)


def test_sampling_logps_serve_as_old_ones() -> None:
    """With the switch off the old log-probabilities come from a forward pass of their own; same run to 1e-5."""
    settings = {
        "advantage": "grpo",
        "num_generations": 4,
        "num_ppo_epochs": 2,
        "kl_placement": "loss",
        "kl_estimator": "k3",
    }
    runs = []
    for reuse in (True, False):
        trainer = make_trainer(ppo_settings(max_steps=4, reuse_sampling_logp=reuse, **settings))
        runs.append([trainer.step(step) for step in range(1, 5)])
    for reused, scored in zip(*runs, strict=True):
        for name in ("loss", "grad_norm", "kl", "rewards/mean", "approx_kl"):
            assert reused[name] == pytest.approx(scored[name], rel=1e-5, abs=1e-6), name
        assert reused["entropy"] > 0


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.7, 0.4, 0.1]),
        ("cosine", [1.0, 0.775, 0.325, 0.1]),
    ],
)
def test_the_learning_rate_follows_its_schedule(kind: str, rates: list[float]) -> None:
    """One step of warm-up, then as named: a tenth is left at the last step."""
    cfg = ppo_settings(max_steps=4, warmup_ratio=0.25, lr_scheduler_type=kind, learning_rate=1e-2)
    trainer, seen = make_trainer(cfg), []
    for step in range(1, 5):
        trainer.step(step)
        seen.append(trainer.state.optimizer.param_groups[0]["lr"] / 1e-2)
    assert seen == pytest.approx(rates)
