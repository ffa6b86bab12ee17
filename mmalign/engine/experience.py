"""Turning a rollout and its rewards into what an update needs: penalties, values, advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmalign.engine.parallel import gather_padded
from mmalign.objectives.advantage import (
    dense_group_advantage,
    frac_zero_std,
    gae,
    group_advantage,
    rloo_advantage,
)
from mmalign.objectives.constrained import combine_with_cost
from mmalign.objectives.kl import kl_penalty
from mmalign.objectives.masked import masked_mean, masked_whiten

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmalign.config.schema import PPOConfig
    from mmalign.types import Row, StepReward

__all__ = ["Experience", "Scored", "make_experience", "rollout_metrics"]


@dataclass(frozen=True)
class Scored:
    """A rollout under the policy that sampled it, its reference and its critic; all ``[B, T]``.

    ``logp_old`` comes from the training forward, or from the sampler (``reuse_sampling_logp``, no critic);
    ``values`` are zero for algorithms without a critic.  ``nats`` turns differences of log-probabilities into nats of
    whole steps (:attr:`mmalign.types.LogP.nats`).  With ``kl_estimator: exact``, ``exact_kl`` ``[B, T]`` is that KL
    and ``mean_ref`` ``[B, T, D]`` the reference's mean of every step.
    """

    rows: tuple[Row, ...]
    mask: Tensor
    finished: Tensor
    group: Tensor
    logp_old: Tensor
    logp_ref: Tensor
    values: Tensor
    entropy: Tensor
    reward: StepReward
    cost: StepReward | None = None
    cost_values: Tensor | None = None
    nats: int = 1
    exact_kl: Tensor | None = None
    mean_ref: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """``logp_old - logp_ref`` in nats of whole steps, ``[B, T]``, 0 off the mask."""
        gap = torch.where(self.mask, self.logp_old - self.logp_ref, torch.zeros_like(self.logp_old))
        return gap * self.nats


@dataclass(frozen=True)
class Experience:
    """One process's share of a step's data, ready for the update; tensors are ``[B, T]``."""

    rows: tuple[Row, ...]
    mask: Tensor
    logp_old: Tensor
    logp_ref: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    cost_values: Tensor | None = None
    cost_returns: Tensor | None = None
    mean_ref: Tensor | None = None


def make_experience(
    scored: Scored,
    cfg: PPOConfig,
    kl_coef: float,
    accelerator: Accelerator | None = None,
    multiplier: float = 0.0,
) -> Experience:
    """Add the KL penalty to the rewards and estimate advantages.

    The KL term is part of the reward (``kl_placement="reward"``) or of the loss; GAE returns are
    made before advantages are whitened; whitening uses the statistics of the global batch.

    Where the rollout has a cost, the advantages are those of ``(reward - multiplier * cost) / (1 + multiplier)``.
    The cost takes the KL penalty with the other sign, so that its weight stays ``kl_coef`` at any multiplier.
    """
    rewards, costs = scored.reward.per_step, None if scored.cost is None else scored.cost.per_step
    if cfg.kl_placement == "reward":
        penalty = kl_coef * _penalty(scored, cfg)
        rewards = rewards - penalty
        costs = None if costs is None else costs + penalty
    if cfg.whiten_rewards:
        rewards = _whiten(rewards, scored.mask, accelerator, shift_mean=False)
    cost_returns = None
    if cfg.advantage == "gae":
        advantages, returns = gae(rewards, scored.values, scored.mask, cfg.gamma, cfg.lam)
        if costs is not None and scored.cost_values is not None:
            harm, cost_returns = gae(costs, scored.cost_values, scored.mask, cfg.gamma, cfg.lam)
            advantages = combine_with_cost(advantages, harm, multiplier)
    else:
        rewards = rewards if costs is None else combine_with_cost(rewards, costs, multiplier)
        advantages = _group_advantages(rewards, scored, cfg)
        returns = advantages + scored.values
    if cfg.whiten_advantages and cfg.advantage == "gae":
        advantages = _whiten(advantages, scored.mask, accelerator, shift_mean=True)
    return Experience(
        scored.rows,
        scored.mask,
        scored.logp_old,
        scored.logp_ref,
        scored.values,
        advantages,
        returns,
        scored.cost_values,
        cost_returns,
        scored.mean_ref,
    )


def _penalty(scored: Scored, cfg: PPOConfig) -> Tensor:
    """KL per step in nats of the whole step, ``[B, T]``."""
    if cfg.kl_estimator == "exact":
        assert scored.exact_kl is not None
        return scored.exact_kl
    gap = scored.log_ratio
    return kl_penalty(gap, torch.zeros_like(gap), cfg.kl_estimator, scored.mask)


def _group_advantages(rewards: Tensor, scored: Scored, cfg: PPOConfig) -> Tensor:
    mask = scored.mask
    if cfg.dense_advantages:
        return dense_group_advantage(rewards, mask, scored.group, scale=cfg.scale_rewards)
    totals = (rewards * mask).sum(-1)
    if cfg.advantage == "rloo":
        per_sample = rloo_advantage(totals, scored.group)
    else:
        per_sample = group_advantage(totals, scored.group, scale=cfg.scale_rewards)
    return per_sample[:, None] * mask


def _whiten(value: Tensor, mask: Tensor, accelerator: Accelerator | None, *, shift_mean: bool) -> Tensor:
    everything, mine = gather_padded(value, accelerator)
    every_mask, _ = gather_padded(mask.to(value.dtype), accelerator)
    whitened = masked_whiten(everything, every_mask > 0.5, shift_mean=shift_mean)
    return whitened[mine, : value.shape[1]]


def rollout_metrics(scored: Scored, kl_coef: float) -> dict[str, Tensor]:
    """Per-sample metrics ``[B]`` of a rollout under TRL's names; the caller averages over samples."""
    mask = scored.mask
    kl = (scored.log_ratio if scored.exact_kl is None else scored.exact_kl).sum(-1)
    score = scored.reward.per_step.sum(-1)
    metrics = {
        "rewards/mean": score,
        "kl": kl,
        "objective/non_score_reward": -kl_coef * kl,
        "entropy": masked_mean(scored.entropy, mask, dim=-1),
        "completion_length": mask.sum(-1).float(),
        "segments": torch.tensor([float(len(row.segments)) for row in scored.rows], device=mask.device),
        "finished": scored.finished.float(),
    }
    if len(scored.group.unique()) < len(scored.rows):
        zero_std = frac_zero_std(score, scored.group)
        metrics["frac_reward_zero_std"] = zero_std.float().expand(len(scored.rows))
    for name, part in scored.reward.parts.items():
        metrics[f"rewards/{name}"] = part.sum(-1)
    metrics |= {name: note.to(mask.device) for name, note in scored.reward.notes.items()}
    if scored.cost is not None:
        metrics["cost/mean"] = scored.cost.per_step.sum(-1)
    return metrics
