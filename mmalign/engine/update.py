"""The loss of one micro-batch of an online update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.step import Loss
from mmalign.errors import UserError
from mmalign.objectives.kl import gaussian_kl, kl_loss
from mmalign.objectives.masked import aggregate, masked_mean
from mmalign.objectives.policy import ppo_value_loss
from mmalign.objectives.policy_family import AGGREGATION, FamilySettings, policy_family_loss
from mmalign.objectives.shapes import fill

if TYPE_CHECKING:
    from mmalign.config.schema import PPOConfig
    from mmalign.engine.critic import Critic
    from mmalign.engine.experience import Experience
    from mmalign.protocols import Likelihood
    from mmalign.types import LogP

__all__ = ["derived_cliprange", "family_settings", "policy_update_loss"]


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
    cost_critic: Critic | None = None,
) -> Loss:
    """Clipped policy loss, plus value loss, KL in the loss and entropy bonus where configured.

    Args:
        data: the process's experience.
        index: the samples of this micro-batch.
        critic_only: warm-up: the value loss alone.
        cost_critic: the critic of a bounded cost, trained like the reward's.

    Returns:
        A loss whose weight makes the means over micro-batches and processes exact for ``loss_type``.

    Raises:
        UserError: when the modality's score is a surrogate, on which a ratio means nothing.
    """
    batch = adapter.collate([data.rows[k] for k in index])
    part = _taken(data, index, batch.mask.shape[1])
    with torch.set_grad_enabled(not critic_only):
        scored = adapter.logp(
            model, batch, temperature=cfg.temperature, entropy=cfg.entropy_coef > 0, hidden=critic is not None
        )
    if scored.surrogate:
        raise UserError(
            f"modality {adapter.name!r} scores with a surrogate, so PPO's importance ratio is undefined on it"
        )
    total, report = _policy_terms(scored, part, cfg, kl_coef)
    if critic_only:
        total = torch.zeros_like(total)
    for name, net in (("", critic), ("cost_", cost_critic)):
        if net is not None and scored.hidden is not None:
            value, value_metrics = ppo_value_loss(
                net(scored.hidden),
                part[f"{name}values"],
                part[f"{name}returns"],
                scored.mask,
                cfg.cliprange_value,
            )
            total = total + cfg.vf_coef * value
            report |= {f"{name}value_loss": value.detach()}
            report |= {f"cost/{key}" if name else key: number for key, number in value_metrics.items()}
    weight = float(scored.mask.sum()) if AGGREGATION[cfg.loss_type] in ("dapo", "bnpo") else float(len(index))
    return Loss(total, weight, report)


def _kl_in_loss(scored: LogP, part: dict[str, Tensor], cfg: PPOConfig) -> Tensor:
    """KL per step ``[B, T]`` in nats of whole steps, with gradient."""
    if cfg.kl_estimator == "exact":
        assert scored.moments is not None
        return gaussian_kl(scored.moments[0], part["mean_ref"], scored.moments[1], scored.mask)
    return kl_loss(
        scored.values * scored.nats,
        part["logp_ref"] * scored.nats,
        scored.mask,
        cfg.kl_estimator,
        ratio_correction=cfg.kl_ratio_correction,
        logp_old=part["logp_old"] * scored.nats,
    )


def derived_cliprange(scored: LogP) -> float:
    """The clip that suits a score's reduction: 0.2 for a sum, ``1e-4 * sqrt(16384 / dims)`` for a mean.

    A ratio of mean log-densities moves by ``delta / sqrt(dims)`` where every dimension's mean moves by ``delta``
    standard deviations.  DDPO's 1e-4 on the 16,384 numbers of its latents is a ``delta`` of 1.3 %, kept for any size.

    *Reference:* Black et al., DDPO (2023), arXiv:2305.13301, its code's clip. *Differs from paper:* scaled with size.
    """
    return 1e-4 * math.sqrt(16384 / scored.dims) if scored.reduction == "mean" else 0.2


def family_settings(cfg: PPOConfig, scored: LogP) -> FamilySettings:
    """The section's choice of policy loss, the clip derived from the score where the section leaves it open."""
    return FamilySettings(
        loss_type=cfg.loss_type,
        importance=cfg.importance_sampling_level,
        cliprange=derived_cliprange(scored) if cfg.cliprange is None else cfg.cliprange,
        cliprange_high=cfg.cliprange_high,
        dual_clip=cfg.dual_clip,
        sapo_temperature_pos=cfg.sapo_temperature_pos,
        sapo_temperature_neg=cfg.sapo_temperature_neg,
    )


def _taken(data: Experience, index: Sequence[int], width: int) -> dict[str, Tensor]:
    """The samples ``index`` of every tensor, cut to the micro-batch's own width."""
    rows = torch.tensor(list(index), device=data.mask.device)
    names = (
        "logp_old",
        "logp_ref",
        "advantages",
        "values",
        "returns",
        "cost_values",
        "cost_returns",
        "mean_ref",
    )
    found = {name: getattr(data, name) for name in names}
    return {name: tensor[rows, :width] for name, tensor in found.items() if tensor is not None}


def _policy_terms(
    scored: LogP, part: dict[str, Tensor], cfg: PPOConfig, kl_coef: float
) -> tuple[Tensor, dict[str, float | Tensor]]:
    """The clipped loss with, where configured, the KL and the entropy bonus."""
    mask = scored.mask
    how, longest = AGGREGATION[cfg.loss_type], cfg.max_completion_length
    total, metrics = policy_family_loss(
        scored.values, part["logp_old"], part["advantages"], mask, family_settings(cfg, scored), longest
    )
    report: dict[str, float | Tensor] = {"policy_loss": total.detach(), **metrics}
    if scored.nats > 1:
        moved = fill((scored.values.detach() - part["logp_old"]) * scored.nats, mask)
        report["approx_kl"] = masked_mean(0.5 * moved.square(), mask)
    if cfg.kl_placement == "loss" and kl_coef:
        per_step = _kl_in_loss(scored, part, cfg)
        penalty = aggregate(per_step, mask, how, max_length=longest)
        total = total + kl_coef * penalty
        report["kl_loss"] = penalty.detach()
    if cfg.entropy_coef and scored.entropy is not None:
        spread = aggregate(scored.entropy, mask, how, max_length=longest)
        total = total - cfg.entropy_coef * spread
    return total, report
