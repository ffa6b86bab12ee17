"""Intuitive fine-tuning: each step is charged with the losses it leads to."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.masked import masked_mean, masked_sum
from mmalign.objectives.shapes import check_steps, fill

__all__ = ["ift_loss", "ift_weights"]


def ift_weights(losses: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Weight of each step: ``w_t ~ sum_{k >= t} gamma^(k - t) l_k`` over real steps, with mean 1 per answer.

    ``gamma`` 0 gives 1 everywhere (plain likelihood), as the released code does; it is not the limit of a small
    gamma, which weights every step by its own loss.

    *Reference:* Hua et al. (2024, arXiv:2405.11870); released code with ``side: left, norm: L1``. *Differs from paper:*
    an answer whose losses are all 0 has weights 1 instead of 0/0; holes in the mask are skipped, not counted as steps.

    Args:
        losses: ``[B, T]`` nats, >= 0.
        mask: ``[B, T]`` bool.
        gamma: in [0, 1].

    Returns:
        ``[B, T]``, 0 off the mask; the mean over an answer's real steps is 1.

    Raises:
        ValueError: on shapes that differ or ``gamma`` out of range.
    """
    check_steps(mask, {"losses": losses})
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: expected a number in [0, 1], got {gamma}")
    ones = mask.to(losses.dtype)
    if gamma == 0:
        return ones
    clean = fill(losses, mask)
    ahead = torch.zeros_like(clean[:, 0])
    columns = []
    for t in range(clean.shape[1] - 1, -1, -1):
        ahead = torch.where(mask[:, t], clean[:, t] + gamma * ahead, ahead)
        columns.append(ahead)
    future = fill(torch.stack(columns[::-1], 1), mask) if columns else clean
    total = masked_sum(future, mask, 1)[:, None]
    known = total > 0
    count = ones.sum(1, keepdim=True)
    return torch.where(known, future * count / torch.where(known, total, torch.ones_like(total)), ones)


def ift_loss(
    logp: Tensor, mask: Tensor, gamma: float = 0.95, detach: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """``mean over answers of mean_t w_t * (-logp_t)`` with :func:`ift_weights`.

    ``logp`` is that of the second forward, which reads each step blended with the model's own prediction of it
    (capability ``Foresees``); with a blend of 0 and ``gamma`` 0 this is supervised fine-tuning with a mean per answer.

    *Reference:* as :func:`ift_weights`. *Differs from paper:* none with ``detach=False``, the released behaviour: the
    gradient also flows through the weights.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        mask: ``[B, T]`` bool; the answer only.
        gamma: in [0, 1].
        detach: treat the weights as constants.

    Returns:
        scalar, and the metrics ``nll`` (unweighted, per step) and ``weight_max``.

    Raises:
        ValueError: as :func:`ift_weights`.
    """
    losses = -fill(logp, mask)
    weights = ift_weights(losses.detach() if detach else losses, mask, gamma)
    per_answer = masked_mean(weights * losses, mask, 1)
    metrics = {"nll": masked_mean(losses, mask).detach(), "weight_max": weights.detach().max()}
    return per_answer.mean(), metrics
