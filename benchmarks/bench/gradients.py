"""A policy away from its reference, and its gradient as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["flat_gradient", "move_away"]


@torch.no_grad()
def move_away(model: nn.Module, seed: int = 1, scale: float = 0.02) -> None:
    """Set trainable LoRA weights to noise and add noise to other trainable weights, the same for equal names.

    At the reference itself a preference loss is log 2 whatever the log-probabilities are.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        noise = scale * torch.randn(parameter.shape, generator=generator)
        if "lora_" in name:
            parameter.copy_(noise)
        else:
            parameter.add_(0.1 * noise)


def flat_gradient(model: nn.Module) -> Tensor:
    """Gradients of all trainable parameters, in the order of their names, as one vector."""
    grads = [p.grad for _, p in sorted(model.named_parameters()) if p.requires_grad and p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads])
