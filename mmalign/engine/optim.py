"""AdamW and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from mmalign.config.fields import Decay

__all__ = ["learning_rate_factor", "make_optimizer", "set_learning_rates"]


def make_optimizer(
    groups: Mapping[str, Iterable[nn.Parameter]],
    learning_rates: Mapping[str, float],
    weight_decay: float = 0.0,
    *,
    fused: bool = False,
) -> torch.optim.AdamW:
    """Make AdamW with one named parameter group per entry; only parameters with ``requires_grad``.

    ``fused`` updates all tensors in one call: for many small tensors several times quicker on a CPU, and equal to
    rounding.
    """
    param_groups = [
        {
            "params": [p for p in parameters if p.requires_grad],
            "lr": learning_rates[name],
            "base_lr": learning_rates[name],
            "name": name,
        }
        for name, parameters in groups.items()
    ]
    return torch.optim.AdamW(param_groups, weight_decay=weight_decay, betas=(0.9, 0.999), fused=fused)


def learning_rate_factor(step: int, max_steps: int, warmup_ratio: float, kind: Decay = "cosine") -> float:
    """Factor on the learning rate at ``step`` (1-based): linear warm-up, then the named decay to 10 %."""
    warmup = max(1, round(warmup_ratio * max_steps)) if warmup_ratio > 0 else 0
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, max_steps - warmup)
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1.0 - 0.9 * progress
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to ``factor`` times its own base."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
