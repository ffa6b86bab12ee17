"""What turns an observation into features: an MLP on vectors, a small CNN on pixels."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["Trunk", "mlp"]

_CHANNELS = ((3, 16, 5), (16, 32, 3), (32, 32, 3))


def mlp(inputs: int, width: int, layers: int, outputs: int | None = None) -> nn.Sequential:
    """``layers`` of SiLU units, and a linear layer to ``outputs`` where one is wanted."""
    sizes = [inputs, *[width] * layers]
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), nn.SiLU()]
    if outputs is not None:
        parts.append(nn.Linear(sizes[-1], outputs))
    return nn.Sequential(*parts)


class Trunk(nn.Module):
    """Features ``[N, H]`` of observations, and what a critic reads of them.

    Args:
        shape: of one observation: ``(D,)``, or ``(height, width, 3)`` bytes.
        width: ``H``.
        layers: layers of the MLP (vectors).
        center: ``[D]`` subtracted from vectors.
        scale: ``[D]`` they are then divided by.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        layers: int,
        center: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.pixels = len(shape) == 3
        size = 1 if self.pixels else shape[0]
        self.register_buffer("center", torch.zeros(size) if center is None else center.float())
        self.register_buffer("scale", torch.ones(size) if scale is None else scale.float())
        if self.pixels:
            parts: list[nn.Module] = []
            for before, after, kernel in _CHANNELS:
                parts += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.SiLU()]
            high, wide = (-(-side // 8) for side in shape[:2])
            self.net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * high * wide, width), nn.SiLU())
        else:
            self.net = mlp(shape[0], width, layers)
        self.hidden_size = width if self.pixels else width + shape[0]

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[N, H]`` and the critic's view ``[N, H']``: the features, and the vector beside them."""
        if self.pixels:
            features: Tensor = self.net(observations.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
            return features, features
        vector = (observations.float() - self.center) / self.scale
        features = self.net(vector)
        return features, torch.cat([features, vector], dim=-1)
