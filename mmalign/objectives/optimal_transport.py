"""Entropic optimal transport between two sequences of embeddings: plan, reward per step, alignment of the embedding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.shapes import check_floats, check_steps

__all__ = ["alignment_loss", "cosine_cost", "sinkhorn_plan", "transport_distance", "transport_reward"]


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """Pairwise cost ``1 - cos(x_i, y_j)`` in [0, 2].

    Args:
        x: ``[B, T, D]`` embeddings.
        y: ``[B, S, D]``.

    Returns:
        ``[B, T, S]``.

    Raises:
        ValueError: on tensors that are not floating of three dimensions, or whose batch or width differ.
    """
    check_floats({"x": x}, 3)
    check_floats({"y": y}, 3)
    if x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2]:
        raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} differ in batch or width")
    first, second = functional.normalize(x, dim=-1), functional.normalize(y, dim=-1)
    return 1.0 - first @ second.transpose(1, 2)


def sinkhorn_plan(
    cost: Tensor,
    epsilon: float,
    iterations: int = 50,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """Plan that minimises ``<P, C> - epsilon H(P)`` with uniform marginals, by alternating scaling in log space.

    The columns' marginals are exact, the rows' to an error that falls with every iteration; 0 off the masks.

    *Reference:* Cuturi (2013, arXiv:1306.0895); log domain: Peyre & Cuturi (2019, arXiv:1803.00567), 4.4.
    *Differs from paper:* none.

    Args:
        cost: ``[B, T, S]``, finite on the masks.
        epsilon: weight of the entropy, > 0, in the cost's unit.
        iterations: how often both marginals are set, >= 1.
        rows: ``[B, T]`` bool, real rows; all when ``None``.
        columns: ``[B, S]`` bool, real columns.

    Returns:
        ``[B, T, S]``, sum 1 per sample.

    Raises:
        ValueError: on shapes that differ, a sample without real rows or columns, or settings out of range.
    """
    check_floats({"cost": cost}, 3)
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"expected epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}")
    left = _marginal(cost[:, :, 0], rows)
    right = _marginal(cost[:, 0, :], columns)
    real = (left > -torch.inf)[:, :, None] & (right > -torch.inf)[:, None, :]
    kernel = torch.where(real, -cost / epsilon, torch.full_like(cost, -torch.inf))
    f, g = torch.zeros_like(left), torch.zeros_like(right)
    for _ in range(iterations):
        f = _scaled(left, kernel + g[:, None, :], 2)
        g = _scaled(right, kernel + f[:, :, None], 1)
    return torch.exp(kernel + f[:, :, None] + g[:, None, :])


def transport_reward(plan: Tensor, cost: Tensor) -> Tensor:
    """Reward of every step, ``r_i = -sum_j P_ij C_ij``; their sum is minus the transport cost.

    *Order-blind:* the plan knows costs and not time, so a video played backwards earns the same in total.

    *Reference:* Tian et al., RAPL (2023, arXiv:2310.07932). *Differs from paper:* none known; no public code.

    Args:
        plan, cost: ``[B, T, S]``; entries of the plan that are 0 count nothing whatever their cost.

    Returns:
        ``[B, T]``, <= 0.

    Raises:
        ValueError: on shapes that differ.
    """
    check_floats({"plan": plan, "cost": cost}, 3)
    return -torch.where(plan > 0, plan * cost, torch.zeros_like(cost)).sum(2)


def transport_distance(
    x: Tensor,
    y: Tensor,
    epsilon: float,
    iterations: int = 50,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """Transport cost ``<P, C>`` of two sequences of embeddings under the cosine cost; gradient through P and C.

    Args:
        x: ``[B, T, D]``.
        y: ``[B, S, D]``.
        epsilon, iterations: of :func:`sinkhorn_plan`.
        x_mask: ``[B, T]`` bool.
        y_mask: ``[B, S]`` bool.

    Returns:
        ``[B]``, >= 0.
    """
    cost = cosine_cost(x, y)
    plan = sinkhorn_plan(cost, epsilon, iterations, x_mask, y_mask)
    return -transport_reward(plan, cost).sum(1)


def alignment_loss(distance_preferred: Tensor, distance_other: Tensor, scale: float = 1.0) -> Tensor:
    """Loss of an embedding on ranked triplets: the anchor is nearer to the preferred video than to the other.

    ``L = -mean log sigmoid(scale * (d(anchor, other) - d(anchor, preferred)))``: Bradley-Terry with the negative
    transport distance to the anchor as reward.

    *Reference:* Tian et al., RAPL (2023, arXiv:2310.07932). *Differs from paper:* ``scale`` is ours (distances under a
    cosine cost are small); their code is not public, so this form and its constants are not checked against it.

    Args:
        distance_preferred, distance_other: ``[B]`` with gradient.
        scale: > 0.

    Raises:
        ValueError: on shapes that differ or a scale that is not positive.
    """
    check_floats({"distance_preferred": distance_preferred, "distance_other": distance_other}, 1)
    if scale <= 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    return -functional.logsigmoid(scale * (distance_other - distance_preferred)).mean()


def _marginal(like: Tensor, mask: Tensor | None) -> Tensor:
    """Log of uniform weights over the real entries ``[B, N]``, minus infinity elsewhere."""
    real = torch.ones_like(like, dtype=torch.bool) if mask is None else mask
    check_steps(real, {"cost": like})
    count = real.sum(1, keepdim=True)
    if not bool((count > 0).all()):
        raise ValueError("a sample has no real step: nothing can be transported")
    return torch.where(real, -count.to(like.dtype).log().expand_as(like), torch.full_like(like, -torch.inf))


def _scaled(target: Tensor, scores: Tensor, dim: int) -> Tensor:
    """``target - logsumexp(scores)`` where the target is real, minus infinity (without gradient) elsewhere."""
    real = target > -torch.inf
    mask = real.unsqueeze(dim)
    safe = torch.where(mask, scores, torch.zeros_like(scores))
    known = torch.where(real, target, torch.zeros_like(target)) - torch.logsumexp(safe, dim)
    return torch.where(real, known, torch.full_like(target, -torch.inf))
