"""Advantages: generalised estimation with a critic, and group baselines without one.

Everything here is a constant of the policy: results carry no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmalign.objectives.masked import masked_mean, masked_sum
from mmalign.objectives.shapes import check_floats, check_group, check_steps, fill

__all__ = [
    "Scale",
    "dense_group_advantage",
    "frac_zero_std",
    "gae",
    "group_advantage",
    "reward_to_go",
    "rloo_advantage",
]

Scale = Literal["group", "batch", "none"]
"""What a group advantage is divided by: its group's std, the batch's std, or nothing."""


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over real steps.

    ``delta_t = r_t + gamma V_{t+1} - V_t``; ``A_t = delta_t + gamma lam A_{t+1}``; ``return_t = A_t + V_t``
    with the *old* values, before any whitening.  A hole in the mask is skipped: the step before it sees the
    step after it, and a reward or value under it counts for nothing.

    *Reference:* Schulman et al. (2015, arXiv:1506.02438), eq. 16. *Differs from paper:* none.

    Args:
        rewards: ``[B, T]``, any unit.
        values: ``[B, T]`` critic before each step, at sampling time.
        mask: ``[B, T]`` bool.
        gamma: discount per step.
        lam: 0 gives the TD error, 1 the return-to-go minus the value.
        bootstrap: ``[B]`` value after the last real step of a cut trajectory; 0 (it ended) when ``None``.

    Returns:
        advantages and returns, ``[B, T]``, 0 off the mask, without gradient.

    Raises:
        ValueError: on shapes that differ, or gamma or lam outside [0, 1].
    """
    check_steps(mask, {"rewards": rewards, "values": values})
    if not (0.0 <= gamma <= 1.0 and 0.0 <= lam <= 1.0):
        raise ValueError(f"gamma and lam must lie in [0, 1], got {gamma} and {lam}")
    rewards, values = fill(rewards, mask), fill(values, mask)
    following = torch.zeros_like(values[:, 0]) if bootstrap is None else bootstrap.to(values.dtype)
    running = torch.zeros_like(values[:, 0])
    advantages = torch.zeros_like(values)
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, running)
        following = torch.where(mask[:, t], values[:, t], following)
        advantages[:, t] = running
    advantages = fill(advantages, mask)
    return advantages, advantages + values


@torch.no_grad()
def reward_to_go(per_step: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """``G_t = r_t + gamma G_{t+1}`` over real steps: GAE with a critic of 0 and lam 1.

    Args:
        per_step: ``[B, T]`` rewards.
        mask: ``[B, T]`` bool.
        gamma: discount per step.

    Raises:
        ValueError: as :func:`gae`.
    """
    return gae(per_step, torch.zeros_like(per_step), mask, gamma, 1.0)[0]


def _groups(rewards: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Check ``[B]`` rewards and groups; return each sample's dense group index and the group sizes."""
    check_floats({"rewards_total": rewards}, 1)
    check_group(group, rewards.shape[0])
    bad = torch.nonzero(~torch.isfinite(rewards)).flatten().tolist()
    if bad:
        raise ValueError(f"rewards_total must be finite, samples {bad[:8]} are not")
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    return index, count


def _group_mean(rewards: Tensor, index: Tensor, count: Tensor) -> Tensor:
    total = torch.zeros(count.shape[0], dtype=rewards.dtype, device=rewards.device)
    return total.index_add(0, index, rewards) / count.to(rewards.dtype)


def _constant_group(rewards: Tensor, index: Tensor, count: Tensor) -> Tensor:
    """``[K]`` bool: true for groups whose rewards are all the same number (also groups of one)."""
    zeros = torch.zeros(count.shape[0], dtype=rewards.dtype, device=rewards.device)
    low = zeros.scatter_reduce(0, index, rewards, "amin", include_self=False)
    high = zeros.scatter_reduce(0, index, rewards, "amax", include_self=False)
    return low == high


def _scale(rewards: Tensor, index: Tensor, count: Tensor, scale: Scale, eps: float) -> Tensor:
    """``[B]`` divisor of each sample's advantage (unbiased standard deviations, as TRL)."""
    if scale == "none":
        return torch.ones_like(rewards)
    if scale == "batch":
        return (rewards.std() if rewards.numel() > 1 else rewards.new_zeros(())).expand_as(rewards) + eps
    if scale == "group":
        centred = rewards - _group_mean(rewards, index, count)[index]
        squares = torch.zeros(count.shape[0], dtype=rewards.dtype, device=rewards.device)
        squares = squares.index_add(0, index, centred.square())
        return (squares / (count - 1).clamp(min=1).to(rewards.dtype)).sqrt()[index] + eps
    raise ValueError(f'unknown scale "{scale}", expected one of group, batch, none')


@torch.no_grad()
def group_advantage(
    rewards_total: Tensor, group: Tensor, scale: Scale = "group", eps: float = 1e-4
) -> Tensor:
    """GRPO's advantage: ``(r - mean of its group) / (std + eps)``; a group without variance gives exactly 0.

    *Reference:* Shao et al. (2024, arXiv:2402.03300), section 4.1.2; ``none`` is Dr. GRPO (Liu et al. 2025,
    arXiv:2503.20783). *Differs from TRL:* groups are named by number, not by position; equal rewards give 0
    exactly instead of rounding error over ``eps``.

    Args:
        rewards_total: ``[B]`` one reward per sequence.
        group: ``[B]`` integers; samples of one prompt share a number, in any order.
        scale: ``group``, ``batch`` (std over all rewards) or ``none``.
        eps: added to the standard deviation (unbiased, in the reward's unit).

    Raises:
        ValueError: on a reward that is not finite, an unknown scale, or a shape that differs.
    """
    index, count = _groups(rewards_total, group)
    centred = rewards_total - _group_mean(rewards_total, index, count)[index]
    advantage = centred / _scale(rewards_total, index, count, scale, eps)
    return fill(advantage, ~_constant_group(rewards_total, index, count)[index])


@torch.no_grad()
def rloo_advantage(rewards_total: Tensor, group: Tensor) -> Tensor:
    """Leave-one-out: ``A_i = r_i - mean of the others = G/(G-1) (r_i - group mean)``; 0 for a group of one.

    *Reference:* Ahmadian et al. (2024, arXiv:2402.14740); Kool et al. (2019). *Differs from paper:* none.

    Args:
        rewards_total: ``[B]`` one reward per sequence.
        group: ``[B]`` integers naming the prompt.

    Raises:
        ValueError: as :func:`group_advantage`.
    """
    index, count = _groups(rewards_total, group)
    centred = rewards_total - _group_mean(rewards_total, index, count)[index]
    size = count.to(rewards_total.dtype)[index]
    advantage = centred * size / (size - 1.0).clamp(min=1.0)
    return fill(advantage, ~_constant_group(rewards_total, index, count)[index])


@torch.no_grad()
def dense_group_advantage(
    per_step: Tensor,
    mask: Tensor,
    group: Tensor,
    scale: Scale = "none",
    baseline: Literal["sequence", "step"] = "sequence",
    eps: float = 1e-4,
) -> Tensor:
    """GRPO for dense rewards: ``A_{i,t} = (sum_{s >= t} r_{i,s} - b) / scale``.

    ``sequence``: b is the group's mean whole-sequence return, so a reward paid on the last real step gives
    exactly :func:`group_advantage`; late steps then carry a baseline that is too large (unbiased, noisy).
    ``step``: b is the group's mean reward-to-go at the same step (0 for those that ended): less variance.
    Both include the sample itself, hence the usual factor (G-1)/G on the expected gradient.

    Args:
        per_step: ``[B, T]`` rewards.
        mask: ``[B, T]`` bool.
        group: ``[B]`` integers naming the prompt.
        scale: as :func:`group_advantage`, of the sequence returns; with ``group``, a group of equal
            returns gives 0.
        baseline: ``sequence`` or ``step``.
        eps: added to the standard deviation.

    Returns:
        ``[B, T]``, 0 off the mask, without gradient.

    Raises:
        ValueError: as :func:`group_advantage`, and on an unknown baseline.
    """
    check_steps(mask, {"per_step": per_step})
    total = masked_sum(per_step, mask, dim=1)
    index, count = _groups(total, group)
    to_go = reward_to_go(per_step, mask)
    if baseline == "sequence":
        base = _group_mean(total, index, count)[index].unsqueeze(1)
    elif baseline == "step":
        sums = to_go.new_zeros(count.shape[0], to_go.shape[1]).index_add(0, index, to_go)
        base = (sums / count.unsqueeze(1).to(to_go.dtype))[index]
    else:
        raise ValueError(f'unknown baseline "{baseline}", expected sequence or step')
    advantage = (to_go - base) / _scale(total, index, count, scale, eps).unsqueeze(1)
    if scale == "group":
        mask = mask & ~_constant_group(total, index, count)[index].unsqueeze(1)
    return fill(advantage, mask)


@torch.no_grad()
def frac_zero_std(rewards_total: Tensor, group: Tensor) -> Tensor:
    """Share of groups whose rewards are all equal: they teach nothing, so report them.

    Args:
        rewards_total: ``[B]`` one reward per sequence.
        group: ``[B]`` integers naming the prompt.

    Raises:
        ValueError: as :func:`group_advantage`.
    """
    index, count = _groups(rewards_total, group)
    constant = _constant_group(rewards_total, index, count)
    return masked_mean(constant.to(rewards_total.dtype), torch.ones_like(constant))
