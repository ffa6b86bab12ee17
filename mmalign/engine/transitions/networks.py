"""Critics: several independent networks evaluated as one, and a value of states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmalign.rng import generator

__all__ = ["Critics", "StateValue", "observation_scale"]


def observation_scale(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[O]`` of observations ``[N, O]``; a constant column has a deviation of 1."""
    mean, std = observations.mean(0), observations.std(0, correction=0)
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


class _Layers(nn.Module):
    """``E`` independent networks of two hidden layers, ``[E, B, I] -> [E, B]``, with layer norm before each ReLU."""

    def __init__(self, count: int, inputs: int, width: int, rng: torch.Generator) -> None:
        super().__init__()
        sizes = [(inputs, width), (width, width), (width, 1)]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in sizes:
            bound = fan_in**-0.5
            weight = torch.empty(count, fan_in, fan_out).uniform_(-bound, bound, generator=rng)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(count, 1, fan_out)))
        self._width = width

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if k < last:
                x = torch.relu(functional.layer_norm(x, (self._width,)))
        return x.squeeze(-1)


class Critics(nn.Module):
    """``Q_e(s, a)`` of ``E`` critics with layer norm (Ball et al. 2023, arXiv:2302.02948, on why it holds values down).

    Args:
        scale: mean and deviation ``[O]`` by which observations are normalised.
        action_dims: A.
        width: of both hidden layers.
        count: E.
        seed: of the initial weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, scale: tuple[Tensor, Tensor], action_dims: int, width: int = 128, count: int = 2, seed: int = 0
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", scale[0].clone())
        self.register_buffer("std", scale[1].clone())
        self.layers = _Layers(count, len(scale[0]) + action_dims, width, generator(seed, "critics"))
        self.count = count

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Values ``[E, B]`` of ``observation [B, O]`` and ``action [B, A]``, or ``[E, B, N]`` of ``[B, N, A]``."""
        state = (observation - self.mean) / self.std
        if action.dim() == 2:
            joined = torch.cat([state, action], 1)
            return self.layers(joined.expand(self.count, *joined.shape))
        many = action.shape[1]
        joined = torch.cat([state[:, None].expand(-1, many, -1), action], 2).flatten(0, 1)
        return self.layers(joined.expand(self.count, *joined.shape)).view(self.count, -1, many)


class StateValue(nn.Module):
    """``V(s)`` of IQL.

    Args:
        scale: mean and deviation ``[O]`` by which observations are normalised.
        width: of both hidden layers.
        seed: of the initial weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scale: tuple[Tensor, Tensor], width: int = 128, seed: int = 0) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", scale[0].clone())
        self.register_buffer("std", scale[1].clone())
        self.layers = _Layers(1, len(scale[0]), width, generator(seed, "state value"))

    def forward(self, observation: Tensor) -> Tensor:
        """Values ``[B]`` of ``observation [B, O]``."""
        state = (observation - self.mean) / self.std
        value: Tensor = self.layers(state[None])[0]
        return value
