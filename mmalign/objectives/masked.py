"""Reductions that see only real steps: the mask decides everything, what lies under it nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmalign.objectives.shapes import check_steps, fill

__all__ = ["Aggregation", "aggregate", "masked_mean", "masked_sum", "masked_var", "masked_whiten"]

Aggregation = Literal["dapo", "grpo", "bnpo", "dr_grpo", "luspo"]
"""How a per-step loss becomes one number; see :func:`aggregate`."""


def _checked(x: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != x.shape:
        raise ValueError(
            f"mask must be boolean of shape {tuple(x.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating tensor, got {x.dtype}")
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return fill(wide, mask)


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of ``x`` where ``mask`` is true; 0 when nothing is.  Half precision is summed in float32.

    Args:
        x: any shape, floating.
        mask: bool, the shape of ``x``.
        dim: the dimension to reduce, all of them when ``None``.

    Raises:
        ValueError: when the mask is not boolean or differs in shape.
    """
    clean = _checked(x, mask)
    return clean.sum() if dim is None else clean.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of ``x`` over true entries of ``mask``; 0 (not NaN) where there is none.

    Raises:
        ValueError: as :func:`masked_sum`.
    """
    total = masked_sum(x, mask, dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    return total / count.clamp(min=1).to(total.dtype)


def masked_var(x: Tensor, mask: Tensor, dim: int | None = None, correction: int = 0) -> Tensor:
    """Variance ``sum (x - mean)^2 / max(n - correction, 1)`` over true entries; 0 for an empty mask.

    Args:
        x: any shape, floating.
        mask: bool, the shape of ``x``.
        dim: the dimension to reduce, all of them when ``None``.
        correction: 0 for the population variance (so that whitening gives a std of exactly 1), 1 for
            the unbiased one.

    Raises:
        ValueError: as :func:`masked_sum`.
    """
    mean = masked_mean(x, mask, dim)
    centred = _checked(x, mask) - (mean if dim is None else mean.unsqueeze(dim))
    count = (mask.sum() if dim is None else mask.sum(dim)) - correction
    return masked_sum(centred.square(), mask, dim) / count.clamp(min=1).to(centred.dtype)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Whiten over all real steps of the batch: ``(x - mean) / (std + 1e-8)``, 0 off the mask.

    A batch whose real entries are all equal whitens to exactly 0 (not to amplified rounding error).

    *Differs from others:* Fine-Grained RLHF divides by ``sqrt(std)``; old TRL uses the unbiased variance.

    Args:
        x: ``[B, T]``, floating.
        mask: ``[B, T]`` bool.
        shift_mean: when false the mean is added back, so only the scale changes.

    Raises:
        ValueError: as :func:`masked_sum`.
    """
    clean = _checked(x, mask)
    mean = masked_mean(x, mask)
    std = masked_var(x, mask).sqrt()
    inf = float("inf")
    low, high = fill(clean, mask, inf).amin(), fill(clean, mask, -inf).amax()
    white = torch.where(high > low, (clean - mean) / (std + 1e-8), torch.zeros_like(clean))
    return fill(white if shift_mean else white + mean, mask)


def aggregate(
    per_step: Tensor,
    mask: Tensor,
    how: Aggregation = "dapo",
    max_length: int | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Reduce a per-step loss ``[B, T]`` to a scalar; the five ways differ as soon as lengths do.

    ``grpo``: mean over sequences of each sequence's mean · ``bnpo``: mean over the real steps of this
    batch · ``dapo``: sum over real steps / ``normalizer`` (default: this batch's real steps, = bnpo) ·
    ``dr_grpo``: sum / (B * ``max_length``), a constant, so no length bias · ``luspo``: sum / B, so that
    longer answers weigh more.

    *Reference:* DeepSeekMath (Shao et al. 2024, arXiv:2402.03300); Dr. GRPO (Liu et al. 2025,
    arXiv:2503.20783); DAPO (Yu et al. 2025, arXiv:2503.14476). *Differs from TRL:* the accumulation
    and process counts TRL divides by are the caller's ``normalizer``.

    Args:
        per_step: ``[B, T]`` loss, floating.
        mask: ``[B, T]`` bool.
        how: one of the five names.
        max_length: the constant of ``dr_grpo`` (steps).
        normalizer: replaces the last denominator (steps for ``dapo``, sequences for ``grpo`` and ``luspo``,
            B * max_length for ``dr_grpo``).  Give the count of the whole optimiser step (divided by
            the number of processes when gradients are averaged over them) and splitting a batch
            changes nothing.

    Raises:
        ValueError: on an unknown ``how``, ``dr_grpo`` without ``max_length``, ``bnpo`` with a normalizer.
    """
    check_steps(mask, {"per_step": per_step})
    if how == "grpo":
        total, default = masked_mean(per_step, mask, dim=1).sum(), torch.tensor(mask.shape[0])
    elif how in ("dapo", "bnpo"):
        if how == "bnpo" and normalizer is not None:
            raise ValueError('bnpo divides by its own batch\'s steps: give "dapo" to use a normalizer')
        total, default = masked_sum(per_step, mask), mask.sum()
    elif how == "dr_grpo":
        if max_length is None or max_length < 1:
            raise ValueError(f"dr_grpo needs max_length >= 1 (the generation limit), got {max_length}")
        total, default = masked_sum(per_step, mask), torch.tensor(mask.shape[0] * max_length)
    elif how == "luspo":
        total, default = masked_sum(per_step, mask), torch.tensor(mask.shape[0])
    else:
        raise ValueError(f'unknown aggregation "{how}", expected one of dapo, grpo, bnpo, dr_grpo, luspo')
    return total / (default.clamp(min=1).to(total.dtype) if normalizer is None else normalizer)
