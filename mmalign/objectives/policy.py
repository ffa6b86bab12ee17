"""Policy-gradient losses: clipped PPO, the GRPO family, RLOO, the critic's loss, the entropy bonus.

Every loss returns ``(scalar loss, metrics)``; metrics are detached 0-dimensional tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.kl import Estimator, kl_loss
from mmalign.objectives.masked import Aggregation, aggregate, masked_mean, masked_sum, masked_var
from mmalign.objectives.shapes import check_floats, check_steps, fill

__all__ = ["aggregate", "entropy_bonus", "grpo_loss", "ppo_policy_loss", "ppo_value_loss", "rloo_loss"]

Metrics = dict[str, Tensor]


def _clip_bounds(
    cliprange: float, cliprange_high: float | None, dual_clip: float | None
) -> tuple[float, float]:
    high = cliprange if cliprange_high is None else cliprange_high
    if not (0.0 <= cliprange < 1.0 and high >= 0.0):
        raise ValueError(f"need 0 <= cliprange < 1 and cliprange_high >= 0, got {cliprange} and {high}")
    if dual_clip is not None and dual_clip <= 1.0 + high:
        raise ValueError(f"dual_clip must exceed 1 + cliprange_high = {1.0 + high:g}, got {dual_clip}")
    return 1.0 - cliprange, 1.0 + high


def _surrogate(
    log_ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float, dual_clip: float | None
) -> tuple[Tensor, Metrics]:
    """``-min(ratio A, clip(ratio) A)``, with A < 0 bounded at ``dual_clip |A|``; inputs already filled."""
    ratio = log_ratio.exp()
    bounded = ratio if dual_clip is None else ratio.clamp(max=dual_clip)
    loss = -torch.minimum(bounded * advantages, ratio.clamp(low, high) * advantages)
    with torch.no_grad():
        is_low = ((ratio < low) & (advantages < 0)).to(ratio.dtype)
        is_high = ((ratio > high) & (advantages > 0)).to(ratio.dtype)
        metrics = {
            "clip_ratio": masked_mean(is_low + is_high, mask),
            "clip_ratio/low": masked_mean(is_low, mask),
            "clip_ratio/high": masked_mean(is_high, mask),
            "approx_kl": masked_mean(torch.expm1(log_ratio) - log_ratio, mask),
            "ratio/max": fill(ratio, mask).amax(),
        }
    return loss, metrics


def ppo_policy_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    aggregation: Aggregation = "dapo",
    max_length: int | None = None,
    normalizer: Tensor | float | None = None,
) -> tuple[Tensor, Metrics]:
    """Clipped policy loss ``-min(rho A, clip(rho, 1 - e, 1 + e_high) A)``, ``rho = exp(logp - logp_old)``.

    *Reference:* Schulman et al. (2017, arXiv:1707.06347), eq. 7; dual clip Ye et al. (2020,
    arXiv:1912.09729); asymmetric clip Yu et al. (2025, arXiv:2503.14476). *Differs from paper:* none.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_old: ``[B, T]`` nats under the sampler, from the training forward; detached here.
        advantages: ``[B, T]``; detached here.
        mask: ``[B, T]`` bool.
        cliprange: lower clip e.
        cliprange_high: upper clip, ``cliprange`` when ``None``.
        dual_clip: bound of the ratio where A < 0 (TRL's ``delta``), > 1 + upper clip; off when ``None``.
        aggregation: see :func:`aggregate`, as ``max_length`` and ``normalizer``.

    Returns:
        loss and ``clip_ratio``, ``clip_ratio/low``, ``clip_ratio/high``, ``approx_kl`` (k3 of old against
        new, nats per step), ``ratio/max``.

    Raises:
        ValueError: on shapes that differ or clip ranges that make no sense.
    """
    check_steps(mask, {"logp": logp, "logp_old": logp_old, "advantages": advantages})
    low, high = _clip_bounds(cliprange, cliprange_high, dual_clip)
    log_ratio = fill(logp, mask) - fill(logp_old.detach(), mask)
    per_step, metrics = _surrogate(log_ratio, fill(advantages.detach(), mask), mask, low, high, dual_clip)
    return aggregate(per_step, mask, aggregation, max_length, normalizer), metrics


def ppo_value_loss(
    values: Tensor,
    values_old: Tensor,
    returns: Tensor,
    mask: Tensor,
    cliprange_value: float | None = 0.2,
    aggregation: Aggregation = "dapo",
    max_length: int | None = None,
    normalizer: Tensor | float | None = None,
) -> tuple[Tensor, Metrics]:
    """Clipped value loss ``1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)``.

    *Reference:* the PPO code of Schulman et al. (openai/baselines); "37 implementation details of PPO"
    (Huang et al. 2022), detail 9. *Differs from paper:* the paper has no value clip; ``None`` turns it off.

    Args:
        values: ``[B, T]`` critic now, with gradient, in the reward's unit.
        values_old: ``[B, T]`` critic at sampling time; detached here.
        returns: ``[B, T]`` from :func:`~mmalign.objectives.advantage.gae`; detached here.
        mask: ``[B, T]`` bool.
        cliprange_value: c, in the reward's unit (scale rewards first); ``None`` for the plain square.
        aggregation: see :func:`aggregate`, as ``max_length`` and ``normalizer``.

    Returns:
        loss and ``value/clip_ratio``, ``value/explained_variance`` (of ``values_old``; 1 is perfect, <= 0
        useless, 0 for constant returns), ``value/mean``.

    Raises:
        ValueError: on shapes that differ or a negative range.
    """
    check_steps(mask, {"values": values, "values_old": values_old, "returns": returns})
    if cliprange_value is not None and cliprange_value < 0:
        raise ValueError(f"cliprange_value must be >= 0, got {cliprange_value}")
    values, old, target = fill(values, mask), fill(values_old.detach(), mask), fill(returns.detach(), mask)
    per_step, clipped = (values - target).square(), torch.zeros_like(values)
    if cliprange_value is not None:
        limited = (old + (values - old).clamp(-cliprange_value, cliprange_value) - target).square()
        clipped = (limited > per_step).to(values.dtype)
        per_step = torch.maximum(per_step, limited)
    variance = masked_var(target, mask)
    unexplained = masked_var(target - old, mask) / variance.clamp(min=torch.finfo(variance.dtype).tiny)
    metrics = {
        "value/clip_ratio": masked_mean(clipped, mask),
        "value/explained_variance": torch.where(variance > 0, 1.0 - unexplained, torch.zeros_like(variance)),
        "value/mean": masked_mean(values.detach(), mask),
    }
    return 0.5 * aggregate(per_step, mask, aggregation, max_length, normalizer), metrics


def grpo_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    loss_type: Aggregation = "dapo",
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    beta: float = 0.0,
    logp_ref: Tensor | None = None,
    kl_estimator: Estimator = "k3",
    use_bias_correction_kl: bool = True,
    max_length: int | None = None,
    normalizer: Tensor | float | None = None,
) -> tuple[Tensor, Metrics]:
    """GRPO and its relatives: the clipped surrogate plus ``beta`` times a loss-side KL, per step.

    ``l_t = -min(rho A, clip(rho) A) + beta w k3(logp, logp_ref)``; w is rho with
    ``use_bias_correction_kl`` (exact reverse-KL gradient), else 1 (gradient of the other direction).

    *Reference:* Shao et al. (2024, arXiv:2402.03300), eq. 3; loss types as :func:`aggregate`.
    *Differs from TRL 1.16:* only in names (``epsilon`` = cliprange, ``delta`` = dual_clip); loss and
    gradient agree. k1 and k2 are offered too.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_old: ``[B, T]`` nats under the sampler; detached here.
        advantages: ``[B]`` (one per sequence) or ``[B, T]`` (dense); detached here.
        mask: ``[B, T]`` bool.
        loss_type: ``dapo``, ``grpo``, ``bnpo``, ``dr_grpo`` or ``luspo``.
        cliprange, cliprange_high, dual_clip: as :func:`ppo_policy_loss`.
        beta: KL coefficient; with 0 no reference is needed.
        logp_ref: ``[B, T]`` nats under the reference.
        kl_estimator: see :func:`~mmalign.objectives.kl.kl_loss`.
        use_bias_correction_kl: multiply the KL by the per-step ratio.
        max_length, normalizer: see :func:`aggregate`.

    Returns:
        loss and the metrics of :func:`ppo_policy_loss`, with ``kl`` (nats per step) where beta is not 0.

    Raises:
        ValueError: as :func:`ppo_policy_loss`, and for a beta without ``logp_ref``.
    """
    if advantages.dim() == 1 and advantages.shape[0] == logp.shape[0]:
        advantages = advantages.unsqueeze(1).expand_as(logp)
    check_steps(mask, {"logp": logp, "logp_old": logp_old, "advantages": advantages})
    low, high = _clip_bounds(cliprange, cliprange_high, dual_clip)
    log_ratio = fill(logp, mask) - fill(logp_old.detach(), mask)
    per_step, metrics = _surrogate(log_ratio, fill(advantages.detach(), mask), mask, low, high, dual_clip)
    if beta != 0.0:
        if logp_ref is None:
            raise ValueError(f"beta = {beta} needs logp_ref, the reference's log-probabilities")
        kl = kl_loss(logp, logp_ref, mask, kl_estimator, use_bias_correction_kl, logp_old)
        per_step = per_step + beta * kl
        metrics["kl"] = masked_mean(kl.detach(), mask)
    return aggregate(per_step, mask, loss_type, max_length, normalizer), metrics


def rloo_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
    normalizer: Tensor | float | None = None,
) -> tuple[Tensor, Metrics]:
    """RLOO: a sequence is one action, ``-mean_i min(rho_i A_i, clip(rho_i) A_i)``, rho_i of the summed logp.

    The KL belongs in the reward here (``kl_penalty`` k1, summed), as in the paper and TRL.

    *Reference:* Ahmadian et al. (2024, arXiv:2402.14740). *Differs from paper:* the clip, as TRL, which does
    nothing on the first step; set 1 - 1e-9 and inf for none.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_old: ``[B, T]`` nats under the sampler; detached here.
        advantages: ``[B]`` from :func:`~mmalign.objectives.advantage.rloo_advantage`; detached here.
        mask: ``[B, T]`` bool.
        cliprange, cliprange_high: as :func:`ppo_policy_loss`, on the sequence's ratio.
        normalizer: number of sequences of the whole optimiser step; B when ``None``.

    Returns:
        loss and the metrics of :func:`ppo_policy_loss`, per sequence.

    Raises:
        ValueError: as :func:`ppo_policy_loss`.
    """
    check_steps(mask, {"logp": logp, "logp_old": logp_old})
    low, high = _clip_bounds(cliprange, cliprange_high, None)
    log_ratio = masked_sum(logp, mask, 1) - masked_sum(logp_old.detach(), mask, 1)
    check_floats({"log_ratio": log_ratio, "advantages": advantages}, 1)
    every = torch.ones_like(log_ratio, dtype=torch.bool)
    per_sequence, metrics = _surrogate(log_ratio, advantages.detach(), every, low, high, None)
    return per_sequence.sum() / (max(mask.shape[0], 1) if normalizer is None else normalizer), metrics


def entropy_bonus(
    entropy: Tensor, mask: Tensor, coef: float, normalizer: Tensor | float | None = None
) -> tuple[Tensor, Metrics]:
    """The loss term ``-coef * mean entropy`` over real steps: add it, and the policy is kept broad.

    Args:
        entropy: ``[B, T]`` nats, with gradient.
        mask: ``[B, T]`` bool.
        coef: weight, >= 0.
        normalizer: steps of the whole optimiser step, see :func:`aggregate`.

    Returns:
        loss and ``entropy`` (nats per step).

    Raises:
        ValueError: on shapes that differ.
    """
    check_steps(mask, {"entropy": entropy})
    loss = -coef * aggregate(entropy, mask, "dapo", normalizer=normalizer)
    return loss, {"entropy": masked_mean(entropy.detach(), mask)}
