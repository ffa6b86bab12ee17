"""Kullback-Leibler terms: three estimators, where they may stand, and what their gradients are.

Samples come from the policy.  With ``d = logp - logp_ref`` per step (nats): ``k1 = d`` (unbiased, can be
negative), ``k2 = d^2 / 2`` (biased value), ``k3 = exp(-d) - 1 + d`` (unbiased, never negative).  In the
*loss* a different thing counts, the gradient: plain k1 has gradient 0 on average, plain k2 the exact
reverse-KL gradient, plain k3 the gradient of the *other* direction KL(ref || policy), and k1 or k3 times the
per-step ratio ``exp(logp - logp_old)`` the exact one again.  Never clamp k1 at 0: that biases it upwards.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mmalign.objectives.shapes import check_floats, check_steps, fill

__all__ = [
    "Estimator",
    "adaptive_kl_coef",
    "categorical_kl",
    "gaussian_kl",
    "kl_estimate",
    "kl_loss",
    "kl_penalty",
]

Estimator = Literal["k1", "k2", "k3"]
"""Schulman's three estimators of KL(policy || reference) from samples of the policy."""


def kl_estimate(
    logp: Tensor, logp_ref: Tensor, estimator: Estimator = "k1", mask: Tensor | None = None
) -> Tensor:
    """KL(policy || reference) estimated per step, differentiable in both arguments.

    ``k1 = d``, ``k2 = d^2 / 2``, ``k3 = exp(-d) - 1 + d`` with ``d = logp - logp_ref``.

    *Reference:* Schulman, "Approximating KL divergence" (2020). *Differs from paper:* none.

    Args:
        logp: ``[B, T]`` log-probability of the step taken under the policy, nats.
        logp_ref: ``[B, T]`` the same under the reference.
        estimator: ``k1``, ``k2`` or ``k3``.
        mask: ``[B, T]`` bool; steps off it give exactly 0 and carry no gradient.

    Returns:
        ``[B, T]`` nats.

    Raises:
        ValueError: on unequal shapes or an unknown estimator.
    """
    mask = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask
    check_steps(mask, {"logp": logp, "logp_ref": logp_ref})
    d = fill(logp, mask) - fill(logp_ref, mask)
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d.square()
    if estimator == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f'unknown KL estimator "{estimator}", expected one of k1, k2, k3')


def kl_penalty(
    logp: Tensor, logp_ref: Tensor, estimator: Estimator = "k1", mask: Tensor | None = None
) -> Tensor:
    """The reward-side KL per step, without gradient: subtract ``kl_coef`` times it from the reward.

    With k1, REINFORCE on this penalty has the exact gradient of KL(policy || reference).

    Args:
        logp: ``[B, T]`` under the policy that sampled, nats.
        logp_ref: ``[B, T]`` under the reference, nats.
        estimator: ``k1`` is the unbiased default of every published PPO.
        mask: ``[B, T]`` bool; 0 off it.

    Returns:
        ``[B, T]`` nats, detached.

    Raises:
        ValueError: as :func:`kl_estimate`.
    """
    return kl_estimate(logp.detach(), logp_ref.detach(), estimator, mask)


def kl_loss(
    logp: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    estimator: Estimator = "k3",
    ratio_correction: bool = True,
    logp_old: Tensor | None = None,
) -> Tensor:
    """The loss-side KL per step: ``ratio * estimator``, the ratio ``exp(logp - logp_old)`` per step.

    Gradient on policy: ``k1``/``k3`` corrected and ``k2`` uncorrected give the exact reverse-KL gradient;
    ``k3`` uncorrected that of KL(ref || policy); ``k2`` corrected that of E[d^2 / 2].

    *Reference:* Tang & Munos (2025, arXiv:2506.09477). *Differs from TRL:* the ratio is per step also where
    the policy ratio is per sequence (TRL issue #6586: the sequence ratio adds a spurious term).

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_ref: ``[B, T]`` nats; detached here.
        mask: ``[B, T]`` bool; 0 off it.
        estimator: ``k1``, ``k2`` or ``k3``.
        ratio_correction: multiply by the ratio of policy to sampler.
        logp_old: ``[B, T]`` under the sampler; ``logp`` detached when ``None`` (on policy).

    Returns:
        ``[B, T]`` nats, to be aggregated like the policy loss.

    Raises:
        ValueError: for ``k1`` without ratio, whose expected gradient is 0, and as :func:`kl_estimate`.
    """
    if estimator == "k1" and not ratio_correction:
        raise ValueError(
            "a loss-side k1 without ratio has an expected gradient of 0: use k2 or ratio_correction"
        )
    check_steps(mask, {"logp": logp, "logp_ref": logp_ref})
    estimate = kl_estimate(logp, logp_ref.detach(), estimator, mask)
    if not ratio_correction:
        return estimate
    old = logp.detach() if logp_old is None else logp_old.detach()
    check_steps(mask, {"logp_old": old})
    return estimate * torch.exp(fill(logp, mask) - fill(old, mask))


def categorical_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Exact ``KL(p || q) = sum_v p_v (log p_v - log q_v)`` of two categorical distributions.

    Args:
        logits_p: ``[..., V]`` unnormalised log-probabilities of p; ``-inf`` entries have probability 0.
        logits_q: ``[..., V]`` of q; infinite where q is 0 and p is not.

    Returns:
        ``[...]`` nats.

    Raises:
        ValueError: on unequal shapes or dtypes that are not floating.
    """
    check_floats({"logits_p": logits_p, "logits_q": logits_q}, logits_p.dim())
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    support = log_p > -math.inf
    gap = fill(log_p, support) - fill(log_q, support)
    return (fill(log_p, support, -math.inf).exp() * gap).sum(-1)


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    """Exact ``KL(N(mean, std^2) || N(mean_ref, std^2)) = |mean - mean_ref|^2 / (2 std^2)`` per step.

    Policy and reference share the standard deviation, which their sampler fixes.  Differentiable in both means.

    *Reference:* Fan et al., DPOK (2023), arXiv:2305.16381, Lemma 4.2's Gaussian case. *Differs from Flow-GRPO's
    code:* the variance is the whole step's; theirs leaves out the step size, so that its value is that fraction.

    Args:
        mean: ``[B, T, D]`` under the policy.
        mean_ref: ``[B, T, D]`` under the reference.
        std: ``[B, T]`` (or ``[B, T, D]``) standard deviation of the step, the same for both.
        mask: ``[B, T]`` bool; 0 off it, where ``std`` may be 0.

    Returns:
        ``[B, T]`` nats.

    Raises:
        ValueError: on unequal shapes, or where a step that counts has no spread.
    """
    if mean.shape != mean_ref.shape or mean.shape[:2] != mask.shape or mean.dim() != 3:
        raise ValueError(
            f"means {tuple(mean.shape)} and {tuple(mean_ref.shape)} do not fit {tuple(mask.shape)}"
        )
    spread = std if std.dim() == 3 else std[..., None]
    counted = mask[..., None].expand_as(spread)
    if bool((spread[counted] <= 0).any()):
        raise ValueError("a step with no spread is deterministic: it has no density; take it off the mask")
    gap = torch.where(mask[..., None], mean - mean_ref, torch.zeros_like(mean))
    scale = torch.where(counted, spread, torch.ones_like(spread))
    return 0.5 * (gap / scale).square().sum(-1)


def adaptive_kl_coef(coef: float, observed: float, target: float, horizon: float, n: float) -> float:
    """One update of an adaptive coefficient: ``coef (1 + clip(observed/target - 1, -.2, .2) n/horizon)``.

    *Reference:* Ziegler et al. (2019, arXiv:1909.08593), section 2.2. *Differs from paper:* none.

    Args:
        coef: current coefficient, >= 0.
        observed: measured KL, in the unit of ``target`` (nats per sequence by custom).
        target: the KL to hold, > 0.
        horizon: samples over which a persistent 20 % error changes the coefficient by 20 %, > 0.
        n: samples seen since the last update.

    Raises:
        ValueError: when an argument is out of range, or ``n`` is so large that the coefficient would turn
            negative (``n >= 5 * horizon``).
    """
    if not (math.isfinite(observed) and math.isfinite(coef) and coef >= 0):
        raise ValueError(f"KL coefficient and observed KL must be finite, got {coef} and {observed}")
    if target <= 0 or horizon <= 0 or not 0 <= n < 5 * horizon:
        raise ValueError(f"need target > 0 and 0 <= n < 5 * horizon, got {target=} {horizon=} {n=}")
    error = min(max(observed / target - 1.0, -0.2), 0.2)
    return coef * (1.0 + error * n / horizon)
