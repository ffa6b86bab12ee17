"""The online loop's step: sample, reward, estimate advantages, update.  PPO, GRPO and RLOO are
configurations of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.engine.constraint import Constraint
from mmalign.engine.experience import Experience, Scored, make_experience, rollout_metrics
from mmalign.engine.loop import LoopState
from mmalign.engine.optim import learning_rate_factor, set_learning_rates
from mmalign.engine.order import rows_for_step
from mmalign.engine.parallel import all_sum, my_share
from mmalign.engine.reference import Reference
from mmalign.engine.scoring import score_rollout
from mmalign.engine.step import Loss, optimisation_step
from mmalign.engine.update import policy_update_loss
from mmalign.errors import UserError
from mmalign.objectives.kl import adaptive_kl_coef
from mmalign.protocols import Likelihood, Samples
from mmalign.rng import generator
from mmalign.types import Rollout, Row, StepReward

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmalign.config.schema import PPOConfig
    from mmalign.engine.critic import Critic

__all__ = ["KLCoefficient", "OnlineTrainer"]


@dataclass
class KLCoefficient:
    """The KL coefficient, fixed or steered towards a target in nats per answer; part of a checkpoint."""

    value: float

    def state_dict(self) -> dict[str, Any]:
        """The current coefficient."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the coefficient."""
        self.value = float(state["value"])


@dataclass
class OnlineTrainer:
    """One step of online training; give ``trainer.step`` to :func:`mmalign.engine.loop.run_loop`.

    Args:
        adapter: a modality with ``Likelihood`` and ``Samples``.
        model: the policy, in eval mode (dropout off in every forward).
        reference: scores samples under the starting policy.
        reward: ``Rollout -> StepReward``.
        critic: value network, for ``advantage="gae"``.
        rows: the prompts.
        cfg: the PPO/GRPO section of the configuration.
        state: modules and optimiser that a checkpoint holds.
        kl: the KL coefficient (also one of the state's counters).
        constraint: a bound on a cost, with its multiplier (also a counter) and its critic; ``None`` for no bound.
    """

    adapter: Likelihood
    model: nn.Module
    reference: Reference
    reward: Callable[[Rollout], StepReward]
    critic: Critic | None
    rows: Sequence[Row]
    cfg: PPOConfig
    state: LoopState
    kl: KLCoefficient
    name: str
    seed: int
    accelerator: Accelerator | None = None
    constraint: Constraint | None = None
    last_rollout: Scored | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, Samples):
            raise UserError(
                f"stage {self.name}: modality {self.adapter.name!r} cannot sample: no online loop"
            )
        if self.cfg.advantage != "gae" and self.cfg.num_generations < 2:
            raise UserError(
                f"{self.name}.num_generations: {self.cfg.advantage} compares answers to one prompt, so it needs at "
                f"least 2, got {self.cfg.num_generations}"
            )

    def step(self, step: int) -> Mapping[str, float]:
        """Do step ``step`` and return its metrics."""
        cfg = self.cfg
        factor = learning_rate_factor(step, cfg.max_steps, cfg.warmup_ratio, cfg.lr_scheduler_type)
        set_learning_rates(self.state.optimizer, factor)
        scored = self._collect(step)
        self.last_rollout = scored
        metrics = self._mean(rollout_metrics(scored, self.kl.value))
        metrics["kl_coef"] = self.kl.value
        multiplier = 0.0
        if self.constraint is not None:
            self.constraint.update(metrics["cost/mean"], step)
            metrics["lambda"] = multiplier = self.constraint.multiplier.value
        if self.cfg.kl_budget is not None:
            metrics["over_budget"] = float(metrics["kl"] > self.cfg.kl_budget)
            if metrics["over_budget"]:
                return metrics
        experience = make_experience(scored, self.cfg, self.kl.value, self.accelerator, multiplier)
        metrics |= self._update(experience, step)
        if self.cfg.kl_target is not None:
            n = self.cfg.rollout_batch_size * self.cfg.num_generations
            self.kl.value = adaptive_kl_coef(
                self.kl.value, metrics["kl"], self.cfg.kl_target, self.cfg.kl_horizon, n
            )
        return metrics

    def _collect(self, step: int) -> Scored:
        prompts = rows_for_step(self.rows, self.cfg.rollout_batch_size, step, seed=self.seed, stage=self.name)
        mine = my_share(list(enumerate(prompts)), self.accelerator)
        assert isinstance(self.adapter, Samples)
        self.model.eval()
        first = mine[0][0]
        rollout = self.adapter.sample(
            self.model,
            [row for _, row in mine],
            self.cfg.num_generations,
            generator(self.seed, self.name, "sample", step, first),
            temperature=self.cfg.temperature,
            max_steps=self.cfg.max_completion_length,
        )
        reward, cost = self._finite("reward", self.reward(rollout), rollout, step), None
        if self.constraint is not None:
            rng = generator(self.seed, self.name, "cost", step, first)
            cost = self._finite("cost", self.constraint.costs(rollout, rng), rollout, step)
        critics = {"values": self.critic, "cost_values": self._cost_critic()}
        return score_rollout(
            self.adapter, self.model, self.reference, critics, rollout, self.cfg, reward, cost
        )

    def _finite(self, what: str, made: StepReward, rollout: Rollout, step: int) -> StepReward:
        bad = (~torch.isfinite(made.per_step)).any(-1).nonzero().flatten().tolist()
        if bad:
            raise UserError(
                f"stage {self.name}, step {step}: the {what} of row {rollout.rows[bad[0]].id!r} is not finite; "
                "no update was made and the last checkpoint is intact"
            )
        return made

    def _cost_critic(self) -> Critic | None:
        return None if self.constraint is None else self.constraint.critic

    def _update(self, experience: Experience, step: int) -> dict[str, float]:
        """Epochs over minibatches; stops early when the update moved further than ``kl_stop``."""
        sums: dict[str, float] = {}
        count = 0
        warming = self.critic is not None and step <= self.cfg.critic_warmup_steps
        for epoch in range(self.cfg.num_ppo_epochs):
            rng = generator(self.seed, self.name, "minibatch", step, epoch)
            order = torch.randperm(len(experience.rows), generator=rng).tolist()
            size = -(-len(order) // self.cfg.num_minibatches)
            for start in range(0, len(order), size):
                index = order[start : start + size]
                if self.cfg.num_generations > 1:
                    index = sorted(index)  # answers to one prompt side by side: they share its forward pass
                metrics = self._minibatch(experience, index, step, warming)
                count += 1
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + value
                if metrics["approx_kl"] > self.cfg.kl_stop:
                    return {name: value / count for name, value in sums.items()} | {"stopped_early": 1.0}
        return {name: value / count for name, value in sums.items()} | {"stopped_early": 0.0}

    def _minibatch(self, data: Experience, index: list[int], step: int, warming: bool) -> dict[str, float]:
        size = self.cfg.per_device_train_batch_size
        micro = [index[k : k + size] for k in range(0, len(index), size)]

        def thunk(part: list[int]) -> Callable[[], Loss]:
            return lambda: policy_update_loss(
                self.adapter,
                self.model,
                self.critic,
                data,
                part,
                self.cfg,
                self.kl.value,
                critic_only=warming,
                cost_critic=self._cost_critic(),
            )

        return optimisation_step(
            [thunk(part) for part in micro],
            self.state.optimizer,
            max_grad_norm=self.cfg.max_grad_norm,
            where=f"stage {self.name}, step {step}",
            accelerator=self.accelerator,
        )

    def _mean(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(metrics)
        sums = torch.stack([metrics[name].double().sum() for name in names])
        count = torch.tensor([float(len(metrics[names[0]]))], dtype=torch.float64, device=sums.device)
        totals = all_sum(torch.cat([count, sums]), self.accelerator)
        return {name: float(value) for name, value in zip(names, totals[1:] / totals[0], strict=True)}
