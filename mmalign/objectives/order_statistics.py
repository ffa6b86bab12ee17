"""The law of the best of K draws: what one exact round of RAFT or SuperHF moves a policy to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["best_of_k_kl", "best_of_k_law"]


def best_of_k_law(probs: Tensor, reward: Tensor, k: int) -> Tensor:
    """Distribution of the best of ``k`` independent draws; ties are broken by the first drawn.

    ``p'(y) = p(y) / p(r = r(y)) * (F(r(y))^k - F(r(y)-)^k)``, which for a continuous reward is the density
    ``k p F^(k-1)``.

    *Reference:* order statistics; RAFT (Dong et al. 2023, arXiv:2304.06767) trains on this law. *Differs from paper:*
    exact for discrete rewards too.

    Args:
        probs: ``[V]`` probabilities, summing to 1.
        reward: ``[V]`` reward of each outcome.
        k: draws, at least 1.

    Returns:
        ``[V]`` probabilities, summing to 1.

    Raises:
        ValueError: on shapes that differ or ``k`` below 1.
    """
    if probs.dim() != 1 or probs.shape != reward.shape or k < 1:
        raise ValueError(
            f"need [V] probs and reward and k >= 1, got {tuple(probs.shape)}, {tuple(reward.shape)}, {k}"
        )
    levels, place = torch.unique(reward, return_inverse=True)  # ascending
    mass = torch.zeros(len(levels), dtype=probs.dtype, device=probs.device).index_add_(0, place, probs)
    upto = mass.cumsum(0)
    won = upto**k - (upto - mass) ** k
    share = torch.where(
        mass > 0, won / torch.where(mass > 0, mass, torch.ones_like(mass)), torch.zeros_like(won)
    )
    return probs * share[place]


def best_of_k_kl(k: int) -> float:
    """KL of the best of ``k`` from one draw, ``log k - (k - 1) / k`` nats, for continuous rewards.

    *Reference:* Stiennon et al. (2020, arXiv:2009.01325). *Differs from paper:* none. With ties it is an
    upper bound.

    Raises:
        ValueError: when ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    return math.log(k) - (k - 1) / k
