"""The critic of PPO: a small network on the policy's detached hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmalign.rng import generator

__all__ = ["Critic"]


class Critic(nn.Module):
    """``V(state before step t)`` from ``LogP.hidden``; gradients never reach the policy.

    Args:
        hidden_size: width of the policy's hidden states.
        width: width of the two inner layers.
        seed: seeds the initial weights; the last layer starts at zero, so ``V = 0`` at first.
    """

    def __init__(self, hidden_size: int, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.first = nn.Linear(hidden_size, width)
        self.second = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        rng = generator(seed, "critic")
        with torch.no_grad():
            for layer in (self.first, self.second):
                bound = (6.0 / layer.in_features) ** 0.5
                layer.weight.uniform_(-bound, bound, generator=rng)
                layer.bias.zero_()
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``hidden [B, T + 1, H]`` to values ``[B, T]`` of the states before each step."""
        state = self.norm(hidden[:, :-1].detach().float())
        state = torch.relu(self.second(torch.relu(self.first(state))))
        value: Tensor = self.out(state).squeeze(-1)
        return value
