"""One update of policy, critics and temperature on a batch of transitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.iterate.snapshot import Snapshot
from mmalign.engine.optim import make_optimizer
from mmalign.engine.step import Loss
from mmalign.engine.transitions.networks import Critics, StateValue, observation_scale
from mmalign.objectives.value_based import (
    advantage_weights,
    conservative_penalty,
    expectile_loss,
    rewarded_cloning_loss,
    sac_actor_loss,
    td_loss,
    td_target,
    temperature_loss,
)

if TYPE_CHECKING:
    from mmalign.config.transitions import TransitionsConfig
    from mmalign.engine.transitions.store import TransitionBatch
    from mmalign.protocols import Transitions

__all__ = ["Learner", "Temperature"]


class Temperature(nn.Module):
    """The weight of the entropy, as its logarithm."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))


@dataclass
class Learner:
    """The networks of one run and their losses.

    Args:
        adapter: draws and scores actions of the policy.
        policy: the model that acts.
        critics, value, temperature, target: made by :meth:`of`; ``target`` holds the slow critics' weights.
        cfg: the section.
        action_dims: A.
    """

    adapter: Transitions
    policy: nn.Module
    critics: Critics
    value: StateValue
    temperature: Temperature
    target: Snapshot
    cfg: TransitionsConfig
    action_dims: int

    @classmethod
    def of(
        cls,
        adapter: Transitions,
        policy: nn.Module,
        cfg: TransitionsConfig,
        recorded: TransitionBatch,
        seed: int,
    ) -> Learner:
        """Fresh critics for ``policy``, normalised by the recorded observations."""
        scale, dims = observation_scale(recorded.observation), recorded.action.shape[1]
        critics = Critics(scale, dims, cfg.critic_width, cfg.critics, seed)
        value = StateValue(scale, cfg.critic_width, seed)
        return cls(adapter, policy, critics, value, Temperature(cfg.alpha), Snapshot(critics), cfg, dims)

    def modules(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds."""
        return {
            "policy": self.policy,
            "critics": self.critics,
            "value": self.value,
            "temperature": self.temperature,
            "target": self.target,
        }

    def optimizer(self) -> torch.optim.AdamW:
        """One optimiser for all of them: each parameter's step depends on its own gradient alone."""
        slow, fast = self.cfg.learning_rate, self.cfg.critic_learning_rate
        groups = {name: module.parameters() for name, module in self.modules().items() if name != "target"}
        return make_optimizer(groups, {name: slow if name == "policy" else fast for name in groups})

    def loss(self, batch: TransitionBatch, rng: torch.Generator, *, online: bool) -> Loss:
        """The sum of all networks' losses; each network's gradient comes from its own alone."""
        if self.cfg.algorithm == "bc":
            logp = self.adapter.action_logp(self.policy, batch.observation, batch.action)
            return Loss(-logp.mean(), 1.0, {"policy_loss": -logp.mean().detach()})
        parts, metrics = self._iql(batch) if self.cfg.algorithm == "iql" else self._sac(batch, rng, online)
        metrics["q/data"] = metrics["q/data"].mean()
        metrics["mc_return"] = batch.mc_return.mean()
        return Loss(torch.stack(parts).sum(), 1.0, metrics)

    def after(self) -> None:
        """Move the slow critics; called after every update."""
        self.target.average(self.critics, 1 - self.cfg.target_rate)

    def _sac(
        self, batch: TransitionBatch, rng: torch.Generator, online: bool
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        cfg, alpha = self.cfg, self.temperature.log_alpha.exp().detach()
        action, logp = self.adapter.propose(self.policy, batch.observation, rng)
        with _frozen(self.critics):
            q_policy = self.critics(batch.observation, action).min(0).values
        actor = sac_actor_loss(logp, q_policy, alpha)
        if cfg.bc_weight and not online:
            cloned = self.adapter.action_logp(self.policy, batch.observation, batch.action)
            actor = actor - cfg.bc_weight * cloned.mean()
        if cfg.bc_weight_online and online:
            taken = self.adapter.action_logp(self.policy, batch.observation, batch.action)
            actor = actor + cfg.bc_weight_online * rewarded_cloning_loss(taken, batch.mc_return)
        next_action, next_logp = self._many(batch.next_observation, rng)
        q_data = self.critics(batch.observation, batch.action)
        target = self._target(batch, next_action, next_logp, alpha)
        critic = td_loss(q_data, target)
        parts = [actor, critic]
        metrics = {
            "policy_loss": actor.detach(),
            "critic_loss": critic.detach(),
            "q/data": q_data.detach(),
            "q/policy": q_policy.detach().mean(),
            "entropy": -logp.detach().mean(),
            "alpha": alpha,
        }
        weight = cfg.cql_weight if not online or cfg.cql_weight_online is None else cfg.cql_weight_online
        if weight and cfg.algorithm in ("cql", "cal_ql"):
            penalty = self._penalty(batch, q_data, next_action, next_logp, rng)
            parts.append(weight * penalty)
            metrics["penalty"] = penalty.detach()
        if cfg.tune_alpha:
            wanted = cfg.target_entropy if cfg.target_entropy is not None else -float(self.action_dims)
            parts.append(temperature_loss(self.temperature.log_alpha, logp, wanted))
        return parts, metrics

    def _iql(self, batch: TransitionBatch) -> tuple[list[Tensor], dict[str, Tensor]]:
        cfg = self.cfg
        with torch.no_grad(), self.target.installed(self.critics):
            slow = self.critics(batch.observation, batch.action).min(0).values
        value = self.value(batch.observation)
        with torch.no_grad():
            ahead = self.value(batch.next_observation)
        q_data = self.critics(batch.observation, batch.action)
        critic = td_loss(q_data, td_target(batch.reward, ahead, batch.terminal, cfg.gamma))
        expectile = expectile_loss(slow - value, cfg.expectile)
        weights = advantage_weights(slow - value.detach(), cfg.awr_temperature)
        logp = self.adapter.action_logp(self.policy, batch.observation, batch.action)
        actor = -(weights * logp).mean()
        return [actor, critic, expectile], {
            "policy_loss": actor.detach(),
            "critic_loss": critic.detach(),
            "value_loss": expectile.detach(),
            "q/data": q_data.detach(),
            "weights": weights.mean(),
        }

    @torch.no_grad()
    def _many(self, observation: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n_actions`` of the policy per state: actions ``[B, N, A]`` and their log-probabilities ``[B, N]``."""
        n = self.cfg.n_actions
        repeated = observation.repeat_interleave(n, 0)
        action, logp = self.adapter.propose(self.policy, repeated, rng)
        return action.view(-1, n, self.action_dims), logp.view(-1, n)

    @torch.no_grad()
    def _target(self, batch: TransitionBatch, action: Tensor, logp: Tensor, alpha: Tensor) -> Tensor:
        with self.target.installed(self.critics):
            ahead = self.critics(batch.next_observation, action).min(0).values
        if self.cfg.backup == "max":
            value = ahead.max(1).values
        else:
            value = (ahead - alpha * logp if self.cfg.backup == "entropy" else ahead).mean(1)
        return td_target(batch.reward, value, batch.terminal, self.cfg.gamma)

    def _penalty(
        self, batch: TransitionBatch, q_data: Tensor, ahead: Tensor, logp_ahead: Tensor, rng: torch.Generator
    ) -> Tensor:
        """The regulariser's mean over transitions, summed over critics (as the TD loss)."""
        n = self.cfg.n_actions
        uniform = torch.rand(len(batch), n, self.action_dims, generator=rng) * 2 - 1
        here, logp_here = self._many(batch.observation, rng)
        q_uniform = self.critics(batch.observation, uniform)
        q_policy = self.critics(batch.observation, torch.cat([here, ahead], 1))
        logp = torch.cat([logp_here, logp_ahead], 1)
        bound = batch.mc_return if self.cfg.algorithm == "cal_ql" else None
        each = [
            conservative_penalty(q_data[e], q_uniform[e], q_policy[e], logp, self.action_dims, bound).mean()
            for e in range(self.critics.count)
        ]
        return torch.stack(each).sum()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module to its inputs and not to its weights."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
