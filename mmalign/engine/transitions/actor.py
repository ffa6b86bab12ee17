"""A Gaussian squashed into [-1, 1] by tanh: the policy that maximum-entropy learning needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["squashed_draw", "squashed_logp"]

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def squashed_draw(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """``a = tanh(mean + std * noise)`` and its log-density, with gradient through both.

    ``log p(a) = sum_d [ log N(u) - log(1 - tanh(u)^2) ]``, the last term as ``2 (log 2 - u - softplus(-2u))``.

    *Reference:* Haarnoja et al. (2018, arXiv:1812.05905), appendix C. *Differs from paper:* the stable form.

    Args:
        mean, log_std, noise: ``[B, A]``.

    Returns:
        ``[B, A]`` in (-1, 1) and ``[B]`` nats.
    """
    raw = mean + log_std.exp() * noise
    return torch.tanh(raw), _log_density(raw, noise, log_std)


def squashed_logp(mean: Tensor, log_std: Tensor, action: Tensor, edge: float = 1e-4) -> Tensor:
    """Log-density ``[B]`` of given actions; those at the very edge are moved in to ``1 - edge``.

    Args:
        mean, log_std: ``[B, A]``.
        action: ``[B, A]`` in [-1, 1].
        edge: how near to +-1 an action may lie (recorded actions are often exactly 1, where no density exists).
    """
    raw = torch.atanh(action.clamp(-1 + edge, 1 - edge))
    return _log_density(raw, (raw - mean) * (-log_std).exp(), log_std)


def _log_density(raw: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    normal = -0.5 * noise.square() - log_std - _HALF_LOG_TAU
    squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    return (normal - squash).sum(-1)
