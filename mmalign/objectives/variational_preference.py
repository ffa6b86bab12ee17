"""Variational preference learning: a reward with a latent user, trained on sets of one user's comparisons."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.shapes import check_floats, check_steps

__all__ = ["gaussian_kl", "preference_logits", "user_posterior", "vpl_loss"]


def preference_logits(reward_first: Tensor, reward_second: Tensor, scale: float = 1.0) -> Tensor:
    """Log-odds that the first segment is preferred: ``(sum_t r(s1_t, z) - sum_t r(s2_t, z)) / scale``.

    Args:
        reward_first, reward_second: ``[..., T]`` reward of every step, 0 off its mask.
        scale: > 0.

    Raises:
        ValueError: when the leading shapes differ or the scale is not positive.
    """
    if reward_first.shape[:-1] != reward_second.shape[:-1]:
        raise ValueError(
            f"segments of shapes {tuple(reward_first.shape)} and {tuple(reward_second.shape)} do not pair"
        )
    if scale <= 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    return (reward_first.sum(-1) - reward_second.sum(-1)) / scale


def gaussian_kl(mean: Tensor, log_var: Tensor, prior_mean: Tensor, prior_log_var: Tensor) -> Tensor:
    """``KL(N(mean, exp(log_var)) || N(prior_mean, exp(prior_log_var)))`` in nats, summed over the last dimension.

    ``1/2 sum_d [ exp(lv - lp) + (m - p)^2 exp(-lp) - 1 + lp - lv ]``.

    Args:
        mean, log_var: ``[B, Z]``.
        prior_mean, prior_log_var: broadcast to ``[B, Z]``.

    Returns:
        ``[B]``, >= 0.

    Raises:
        ValueError: when ``mean`` and ``log_var`` differ in shape.
    """
    check_floats({"mean": mean, "log_var": log_var}, 2)
    gap = log_var - prior_log_var
    return 0.5 * (gap.exp() + (mean - prior_mean).square() * (-prior_log_var).exp() - 1.0 - gap).sum(1)


def vpl_loss(logits: Tensor, label: Tensor, mask: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
    """Negative evidence bound per set of one user's comparisons, divided by the number of comparisons.

    ``L = mean_b [ (sum_n BCE(logits_bn, y_bn) + w KL_b) / N_b ]``: at ``w = 1`` the bound on the likelihood of the set,
    per comparison.

    *Reference:* Poddar et al., VPL (2024, arXiv:2408.10075). *Differs from its code:* the KL has its 1/2 (theirs
    lacks it, so that their weight 1 is 2 here), and likelihood and KL are divided by the same count, so that the
    balance does not depend on the batch.

    Args:
        logits: ``[B, N]`` log-odds that the first is preferred.
        label: ``[B, N]`` in [0, 1], 1 when the first is.
        mask: ``[B, N]`` bool; every set needs one real comparison.
        kl: ``[B]`` nats.
        kl_weight: w >= 0.

    Raises:
        ValueError: on shapes that differ, labels out of range, an empty set or a negative weight.
    """
    check_steps(mask, {"logits": logits, "label": label})
    check_floats({"kl": kl, "logits[:, 0]": logits[:, 0]}, 1)
    real = label[mask]
    if not bool(mask.any(1).all()) or bool(((real < 0) | (real > 1)).any()):
        raise ValueError("expected labels in [0, 1] and at least one comparison per set")
    if kl_weight < 0:
        raise ValueError(f"kl_weight: expected a number from 0, got {kl_weight}")
    clean = torch.where(mask, logits, torch.zeros_like(logits))
    target = torch.where(mask, label, torch.zeros_like(label))
    losses = functional.binary_cross_entropy_with_logits(clean, target, reduction="none") * mask
    return ((losses.sum(1) + kl_weight * kl) / mask.sum(1)).mean()


def user_posterior(centre: Tensor, log_precision: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian posterior from one Gaussian factor per comparison and a standard normal prior; order does not matter.

    ``precision = 1 + sum_n exp(p_n)``, ``mean = sum_n m_n exp(p_n) / precision``: every comparison adds precision, so
    the variance can only fall as the set grows, and an empty set gives the prior.

    *Reference:* products of experts as inference networks: Wu & Goodman (2018, arXiv:1802.05335). *Differs from
    VPL's control code:* there the members are concatenated, so that their order changes the user.

    Args:
        centre: ``[B, N, Z]`` mean of each comparison's factor.
        log_precision: ``[B, N, Z]``.
        mask: ``[B, N]`` bool.

    Returns:
        mean and log-variance, ``[B, Z]`` each.

    Raises:
        ValueError: on shapes that do not fit.
    """
    check_floats({"centre": centre, "log_precision": log_precision}, 3)
    check_steps(mask, {"centre[..., 0]": centre[..., 0]})
    real = mask[:, :, None]
    weight = torch.where(real, log_precision, torch.full_like(log_precision, -torch.inf)).exp()
    precision = 1.0 + weight.sum(1)
    mean = (weight * torch.where(real, centre, torch.zeros_like(centre))).sum(1) / precision
    return mean, -precision.log()
