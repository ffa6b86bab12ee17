"""What turns readings into a score of one answer, or into the odds of one answer against another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmalign.rewards.preference.options import Pool
from mmalign.rewards.preference.reading import NUMBERS
from mmalign.rng import generator

__all__ = ["PairHead", "ValueHead", "pooled", "step_parts"]

NARROWEST = 16
"""Least width of an MLP's hidden layer."""


def pooled(values: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    """Reduce ``[B, T, ...]`` numbers after each step to ``[B, ...]``: the last real step's, their sum or mean.

    Args:
        values: what was read after each step.
        mask: ``[B, T]`` bool; an answer without a step gives 0.
        pool: which.
    """
    lengths = mask.sum(dim=1)
    keep = mask
    if pool == "last":
        steps = torch.arange(mask.shape[1], device=mask.device)
        keep = mask & (steps[None, :] == (lengths - 1)[:, None])
    keep = keep.reshape(*mask.shape, *([1] * (values.dim() - 2)))
    total = torch.where(keep, values, torch.zeros_like(values)).sum(dim=1)
    if pool != "mean":
        return total
    return total / lengths.clamp(min=1).reshape(-1, *([1] * (total.dim() - 1)))


def step_parts(values: Tensor, pool: Pool, center: Tensor, scale: Tensor) -> Tensor:
    """Split a standardised score over the steps it was read from; the parts sum to the score.

    Args:
        values: ``[M, n]`` value after each real step, per member.
        pool: how the score is made of them.
        center: ``[M]`` zero of the score.
        scale: ``[M]`` unit of the score.
    """
    n = max(values.shape[1], 1)
    if pool == "last":
        parts = torch.zeros_like(values)
        parts[:, -1:] = values[:, -1:] - center[:, None]
    else:
        parts = (values / n if pool == "mean" else values) - center[:, None] / n
    return parts / scale[:, None]


class ValueHead(nn.Module):
    """LayerNorm on each state, then a linear layer or an MLP to one number; it starts at 0.

    Args:
        sizes: sizes of the parts of a reading, see ``reading.feature_sizes``.
        kind: ``linear`` or ``mlp`` (one hidden layer as wide as a state).
        member: names the stream of the first weights, so that the members of an ensemble differ.
    """

    def __init__(self, sizes: Sequence[int], kind: Literal["linear", "mlp"], member: int = 0) -> None:
        super().__init__()
        self.parts = list(sizes)
        self.norms = _norms(sizes)
        width = sum(sizes)
        inner = max(sizes[0], NARROWEST)
        self.first = nn.Linear(width, inner) if kind == "mlp" else None
        self.last = nn.Linear(inner if kind == "mlp" else width, 1)
        _initialise(self.first, self.last, member)

    def forward(self, features: Tensor) -> Tensor:
        """Values ``[...]`` of readings ``[..., F]``."""
        x = _normed(self.norms, features, self.parts)
        if self.first is not None:
            x = nn.functional.gelu(self.first(x))
        values: Tensor = self.last(x).squeeze(-1)
        return values


class PairHead(nn.Module):
    """Logit that the first of two answers is better: ``(f(a, b) - f(b, a)) / 2``, antisymmetric by construction.

    ``f`` is an MLP on both readings, so the preference need not be transitive as a score's is.

    Args:
        sizes: sizes of the parts of a reading.
        member: names the stream of the first weights.
    """

    def __init__(self, sizes: Sequence[int], member: int = 0) -> None:
        super().__init__()
        self.parts = list(sizes)
        self.norms = _norms(sizes)
        inner = 2 * max(sizes[0], NARROWEST)
        self.first = nn.Linear(2 * sum(sizes), inner)
        self.last = nn.Linear(inner, 1)
        _initialise(self.first, self.last, member)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``[...]`` from two pooled readings ``[..., F]``."""
        a, b = (_normed(self.norms, features, self.parts) for features in (first, second))
        one, other = (
            self.last(nn.functional.gelu(self.first(torch.cat(pair, dim=-1)))).squeeze(-1)
            for pair in ((a, b), (b, a))
        )
        return (one - other) / 2.0


def _norms(sizes: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Identity() if size == NUMBERS else nn.LayerNorm(size) for size in sizes)


def _normed(norms: nn.ModuleList, features: Tensor, parts: list[int]) -> Tensor:
    pieces = features.split(parts, dim=-1)
    return torch.cat([norm(piece) for norm, piece in zip(norms, pieces, strict=True)], dim=-1)


def _initialise(first: nn.Linear | None, last: nn.Linear, member: int) -> None:
    """He-uniform first layer from a named stream, last layer at 0: every answer starts out equal."""
    rng = generator(0, "preference-head", member)
    with torch.no_grad():
        if first is not None:
            bound = (6.0 / first.in_features) ** 0.5
            first.weight.uniform_(-bound, bound, generator=rng)
            first.bias.zero_()
        last.weight.zero_()
        last.bias.zero_()
