"""Supervised fine-tuning: the likelihood of given answers."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.masked import masked_sum
from mmalign.objectives.shapes import check_steps

__all__ = ["nll_loss"]


def nll_loss(
    logp: Tensor, mask: Tensor, weights: Tensor | None = None, normalizer: Tensor | float | None = None
) -> Tensor:
    """Negative log-likelihood, token mean: ``-sum w_t logp_t / sum w_t`` over all real steps of the batch.

    *Reference:* maximum likelihood. *Differs from paper:* none; the mean is over the batch's steps, not over
    sequences, so a long answer counts by its length.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        mask: ``[B, T]`` bool; the answer only, never the prompt.
        weights: ``[B, T]`` weight of each step, >= 0; all 1 when ``None``.
        normalizer: replaces the denominator: the steps (or weights) of the whole optimiser step, so that
            gradient accumulation equals one large batch.

    Returns:
        scalar, nats per step; 0 when nothing is unmasked.

    Raises:
        ValueError: on shapes that differ.
    """
    weights = torch.ones_like(logp) if weights is None else weights.to(logp.dtype)
    check_steps(mask, {"logp": logp, "weights": weights})
    if normalizer is None:
        total = masked_sum(weights, mask)
        normalizer = torch.where(total > 0, total, torch.ones_like(total))
    clean = torch.where(mask, logp, torch.zeros_like(logp)) * torch.where(
        mask, weights, torch.zeros_like(weights)
    )
    return -masked_sum(clean, mask) / normalizer
