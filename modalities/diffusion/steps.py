"""The record of a denoising trajectory and what a Gaussian step's density is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Denoising", "gaussian_entropy", "gaussian_logp", "padded_steps"]


@dataclass(frozen=True, eq=False)
class Denoising:
    """The random steps of one picture's drawing that were kept, in the order in which they were taken.

    Deterministic steps, and those left out by ``train_fraction``, are not in it, so every recorded step counts.

    Args:
        before: ``[K, C, H, W]`` latents each step started from.
        after: ``[K, C, H, W]`` latents it drew.
        index: ``[K]`` place of each step on the sampler's grid, 0 first.
        num_steps: length of that grid.
    """

    before: Tensor
    after: Tensor
    index: Tensor
    num_steps: int

    def __len__(self) -> int:
        return len(self.index)


def padded_steps(steps: Sequence[Denoising]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``before`` and ``after`` ``[B, K, C, H, W]``, ``index`` ``[B, K]`` and the mask ``[B, K]`` of several records."""
    width = max(len(one) for one in steps)
    mask = torch.tensor([[k < len(one) for k in range(width)] for one in steps], dtype=torch.bool)
    mask = mask.reshape(len(steps), width)

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        full = parts[0].new_zeros(len(parts), width, *parts[0].shape[1:])
        for place, part in enumerate(parts):
            full[place, : len(part)] = part
        return full

    return (
        stacked([one.before for one in steps]),
        stacked([one.after for one in steps]),
        stacked([one.index for one in steps]),
        mask,
    )


def gaussian_logp(value: Tensor, mean: Tensor, std: Tensor, reduction: str) -> Tensor:
    """Log-density ``[M]`` in nats of ``value`` ``[M, ...]`` under ``N(mean, std^2 I)``.

    ``-(x - mu)^2 / (2 s^2) - log s - log(2 pi) / 2`` per dimension, summed or averaged over dimensions.

    Args:
        value: ``[M, ...]``.
        mean: ``[M, ...]``.
        std: ``[M]``, above 0.
        reduction: ``sum`` or ``mean``.
    """
    spread = std.reshape(-1, *[1] * (value.dim() - 1))
    dense = -0.5 * ((value - mean) / spread).square() - spread.log() - 0.5 * math.log(2 * math.pi)
    flat = dense.flatten(1)
    return flat.sum(-1) if reduction == "sum" else flat.mean(-1)


def gaussian_entropy(std: Tensor, dims: int, reduction: str) -> Tensor:
    """Differential entropy ``[M]`` in nats of ``N(., std^2 I)`` in ``dims`` dimensions; negative for small ``std``."""
    per_dim = std.log() + 0.5 * math.log(2 * math.pi * math.e)
    return per_dim * dims if reduction == "sum" else per_dim
