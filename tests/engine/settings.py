"""Plain settings and builders for engine tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmalign.engine.constraint import Constraint
from mmalign.engine.critic import Critic
from mmalign.engine.loop import LoopState
from mmalign.engine.online import KLCoefficient, OnlineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.reference import Reference
from mmalign.testing.policies import ToyAdapter, ToyReward, toy_rows


def ppo_settings(**changes: Any) -> Any:
    """The fields of the PPO section that the engine reads, with values that suit the toy modality."""
    settings: dict[str, Any] = dict(
        max_steps=10, rollout_batch_size=32, num_generations=1, per_device_train_batch_size=16, num_ppo_epochs=2,
        num_minibatches=2, learning_rate=1e-2, critic_learning_rate=1e-2, critic_warmup_steps=1, gamma=1.0, lam=0.95,
        cliprange=0.2, cliprange_high=None, dual_clip=None, cliprange_value=0.2, vf_coef=0.5, kl_coef=0.02,
        kl_estimator="k1", kl_placement="reward", kl_ratio_correction=True, kl_target=None, kl_horizon=1000.0,
        kl_budget=None, kl_stop=1.0, whiten_advantages=True, whiten_rewards=False, entropy_coef=0.0, temperature=1.0,
        max_completion_length=8, max_grad_norm=1.0, warmup_ratio=0.0, lr_scheduler_type="constant", advantage="gae",
        loss_type="dapo", importance_sampling_level="token", sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
        scale_rewards="group", dense_advantages=False, reference="copy", reuse_sampling_logp=True,
    )  # fmt: skip
    return SimpleNamespace(**(settings | changes))


def make_trainer(
    cfg: Any, seed: int = 0, model: Any = None, reward: Any = None, constraint: Constraint | None = None
) -> OnlineTrainer:
    """An online trainer over the toy modality; a bound on a cost gets its critic here."""
    adapter = ToyAdapter()
    model = model if model is not None else adapter.load("toy:1")
    modules, groups, rates = {"policy": model}, {"policy": model.parameters()}, {"policy": cfg.learning_rate}
    critic = None
    if cfg.advantage == "gae":
        critic = Critic(model.hidden_size, width=32, seed=seed)
        modules["critic"], groups["critic"], rates["critic"] = (
            critic,
            critic.parameters(),
            cfg.critic_learning_rate,
        )
    kl = KLCoefficient(cfg.kl_coef)
    counters: dict[str, Any] = {"kl": kl}
    if constraint is not None:
        counters["lambda"] = constraint.multiplier
        if critic is not None:
            constraint.critic = modules["cost_critic"] = Critic(model.hidden_size, width=32, seed=seed + 1)
            groups["cost_critic"] = constraint.critic.parameters()
            rates["cost_critic"] = cfg.critic_learning_rate
    state = LoopState(modules, make_optimizer(groups, rates), counters)
    return OnlineTrainer(
        adapter, model, Reference(adapter, model, cfg.reference), reward or ToyReward(), critic,
        toy_rows(64, seed), cfg, state, kl, "ppo", seed, constraint=constraint,
    )  # fmt: skip


class ListSink:
    """Keeps metrics in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.records.append((step, dict(metrics)))

    def rewind(self, step: int) -> None:
        self.records = [record for record in self.records if record[0] <= step]


def loop_arguments(folder: Path, sink: ListSink, max_steps: int, save_steps: int = 2) -> dict[str, Any]:
    """Arguments of ``run_loop`` beside the step function and the state."""
    return dict(name="ppo", seed=0, max_steps=max_steps, folder=folder, save_steps=save_steps, sink=sink)
