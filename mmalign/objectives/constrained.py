"""Reward under a bound on cost: the multiplier, the combined advantage, and the loss of a cost model."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.shapes import check_floats

__all__ = ["combine_with_cost", "cost_model_loss", "multiplier_step"]


def multiplier_step(
    log_lambda: float, mean_cost: float, cost_limit: float, lr: float, lambda_max: float | None = None
) -> float:
    """One ascent step of the multiplier in log space: ``ln l <- min(ln l + lr * l * (J_C - d), ln l_max)``.

    The step is the gradient of ``l (J_C - d)`` with respect to ``ln l``: the multiplier stays positive, rises while the
    mean cost is above its limit and falls below it.

    *Reference:* Dai et al., Safe RLHF (2023, arXiv:2310.12773), multiplier in log space. *Differs from paper:*
    ``J_C`` is the mean of this step's answers; the limit ``d`` is subtracted here instead of in the cost.

    Args:
        log_lambda: natural logarithm of the multiplier.
        mean_cost: mean total cost of an answer.
        cost_limit: largest mean cost wanted, in the cost's unit.
        lr: step size, not negative.
        lambda_max: the multiplier is never above this; ``None`` for no bound.

    Raises:
        ValueError: on a cost that is not finite, a negative step size, or a bound that is not positive.
    """
    if not (math.isfinite(mean_cost) and math.isfinite(log_lambda)):
        raise ValueError(f"log_lambda and mean_cost must be finite, got {log_lambda} and {mean_cost}")
    if lr < 0 or (lambda_max is not None and lambda_max <= 0):
        raise ValueError(f"expected lr >= 0 and lambda_max > 0, got {lr} and {lambda_max}")
    ceiling = math.inf if lambda_max is None else math.log(lambda_max)
    return min(log_lambda + lr * math.exp(log_lambda) * (mean_cost - cost_limit), ceiling)


def combine_with_cost(reward: Tensor, cost: Tensor, multiplier: float) -> Tensor:
    """The Lagrangian in one number: ``(R - l C) / (1 + l)``, of advantages or of rewards.

    The divisor keeps the size of the update when the multiplier grows.  Everything linear (GAE, a group's mean) may
    come before or after.

    *Reference:* Dai et al. (2023, arXiv:2310.12773), the surrogate objective. *Differs from paper:* none.

    Args:
        reward: ``[B, T]`` or ``[B]`` of the reward.
        cost: the same of the cost.
        multiplier: ``l``, not negative; 0 gives ``reward`` itself.

    Raises:
        ValueError: on shapes that differ or a negative multiplier.
    """
    check_floats({"reward": reward, "cost": cost}, reward.dim())
    if not (multiplier >= 0 and math.isfinite(multiplier)):
        raise ValueError(f"multiplier must be a finite number >= 0, got {multiplier}")
    return (reward - multiplier * cost) / (1.0 + multiplier)


def cost_model_loss(
    worse: Tensor,
    better: Tensor,
    worse_unsafe: Tensor,
    better_unsafe: Tensor,
    sign_coef: float = 1.0,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A cost model's loss: the more harmful answer costs more, and a cost above 0 means unsafe.

    ``-mean[log sigmoid(c_worse - c_better) + k (log sigmoid(s_worse c_worse) + log sigmoid(s_better c_better))]``
    with ``s = +1`` for an unsafe answer and ``-1`` for a safe one.  The pair term alone leaves the cost's zero free;
    the sign terms put it at the border of safety, so that ``cost_limit`` 0 has a meaning.

    *Reference:* Dai et al. (2023, arXiv:2310.12773), the cost model. *Differs from paper:* a weight on the sign terms
    (paper: 1).

    Args:
        worse: ``[B]`` cost of the more harmful answer, with gradient.
        better: ``[B]`` cost of the other.
        worse_unsafe: ``[B]`` bool, whether the more harmful answer is unsafe by itself.
        better_unsafe: ``[B]`` bool of the other.
        sign_coef: weight of the sign terms.
        weight: ``[B]`` weight of each pair, such as one over its prompt's pairs; all 1 when ``None``.

    Returns:
        scalar in nats per pair, and ``accuracy`` of the order and of the signs.

    Raises:
        ValueError: on shapes that differ, flags that are not boolean, or a pair whose better answer alone is unsafe.
    """
    check_floats({"worse": worse, "better": better}, 1)
    for name, flag in (("worse_unsafe", worse_unsafe), ("better_unsafe", better_unsafe)):
        if flag.dtype != torch.bool or flag.shape != worse.shape:
            raise ValueError(
                f"{name} must be boolean {tuple(worse.shape)}, got {flag.dtype} {tuple(flag.shape)}"
            )
    upside_down = torch.nonzero(better_unsafe & ~worse_unsafe).flatten().tolist()
    if upside_down:
        raise ValueError(
            f"pair {upside_down[0]}: the less harmful answer is unsafe but the more harmful one is safe"
        )
    costs, unsafe = torch.stack([worse, better]), torch.stack([worse_unsafe, better_unsafe])
    signed = torch.where(unsafe, costs, -costs)
    pair = -functional.logsigmoid(worse - better)
    sign = -functional.logsigmoid(signed).sum(0)
    metrics = {
        "accuracy/order": (worse > better).float().mean().detach(),
        "accuracy/sign": (signed > 0).float().mean().detach(),
    }
    total = pair + sign_coef * sign
    share = torch.ones_like(total) if weight is None else weight.to(total.dtype)
    return (total * share).sum() / share.sum().clamp(min=torch.finfo(total.dtype).tiny), metrics
