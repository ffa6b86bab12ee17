"""The loss of one micro-batch of an online update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.step import Loss
from mmalign.errors import UserError
from mmalign.objectives.kl import kl_loss
from mmalign.objectives.masked import aggregate, masked_mean
from mmalign.objectives.policy import ppo_policy_loss, ppo_value_loss

if TYPE_CHECKING:
    from mmalign.config.schema import PPOConfig
    from mmalign.engine.critic import Critic
    from mmalign.engine.experience import Experience
    from mmalign.protocols import Likelihood

__all__ = ["policy_update_loss"]


def policy_update_loss(
    adapter: Likelihood,
    model: nn.Module,
    critic: Critic | None,
    data: Experience,
    index: Sequence[int],
    cfg: PPOConfig,
    kl_coef: float,
    *,
    critic_only: bool = False,
) -> Loss:
    """Clipped policy loss, plus value loss, KL in the loss and entropy bonus where configured.

    Args:
        data: the process's experience.
        index: the samples of this micro-batch.
        critic_only: warm-up: the value loss alone.

    Returns:
        A loss whose weight makes the means over micro-batches and processes exact for ``loss_type``.

    Raises:
        UserError: when the modality's score is a surrogate, on which a ratio means nothing.
    """
    batch = adapter.collate([data.rows[k] for k in index])
    width = batch.mask.shape[1]
    rows = torch.tensor(list(index), device=data.mask.device)

    def take(value: Tensor) -> Tensor:
        return value[rows, :width]

    with torch.set_grad_enabled(not critic_only):
        scored = adapter.logp(
            model, batch, temperature=cfg.temperature, entropy=cfg.entropy_coef > 0, hidden=critic is not None
        )
    if scored.surrogate:
        raise UserError(f"modality {adapter.name!r} scores with a surrogate, so PPO's importance ratio is undefined on it")
    mask = scored.mask
    policy, metrics = ppo_policy_loss(
        scored.values,
        take(data.logp_old),
        take(data.advantages),
        mask,
        cfg.cliprange,
        cliprange_high=cfg.cliprange_high,
        dual_clip=cfg.dual_clip,
        aggregation=cfg.loss_type,
        max_length=cfg.max_completion_length,
    )
    total = torch.zeros_like(policy) if critic_only else policy
    report = {"policy_loss": policy.detach(), **metrics}
    if cfg.kl_placement == "loss" and kl_coef and not critic_only:
        per_step = kl_loss(
            scored.values,
            take(data.logp_ref),
            mask,
            cfg.kl_estimator,
            ratio_correction=cfg.kl_ratio_correction,
            logp_old=take(data.logp_old),
        )
        penalty = aggregate(per_step, mask, cfg.loss_type, max_length=cfg.max_completion_length)
        total = total + kl_coef * penalty
        report["kl_loss"] = penalty.detach()
    if cfg.entropy_coef and not critic_only and scored.entropy is not None:
        entropy = masked_mean(scored.entropy, mask)
        total = total - cfg.entropy_coef * entropy
    if critic is not None:
        value, value_metrics = ppo_value_loss(
            critic(scored.hidden), take(data.values), take(data.returns), mask, cfg.cliprange_value
        )
        total = total + cfg.vf_coef * value
        report |= {"value_loss": value.detach(), **value_metrics}
    weight = float(mask.sum()) if cfg.loss_type in ("dapo", "bnpo") else float(len(index))
    return Loss(total, weight, report)
