"""Random numbers for a batch of episodes, from one stream or from a stream per episode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Noise"]


class Noise:
    """Draws ``[B, ...]`` numbers.

    Args:
        streams: one generator for the batch, or one per row of it; then a row's numbers never depend on its neighbours.
        rows: how many rows.
        n: answers per row; those of one row draw from its stream one after the other.
    """

    def __init__(self, streams: torch.Generator | Sequence[torch.Generator], rows: int, n: int = 1) -> None:
        self.streams, self.rows, self.n = streams, rows, n

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers ``[rows * n, *shape]``."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers ``[rows * n, *shape]`` from 0 to 1."""
        return self._draw(torch.rand, shape)

    def _draw(self, make: object, shape: tuple[int, ...]) -> Tensor:
        assert callable(make)
        if isinstance(self.streams, torch.Generator):
            found: Tensor = make(self.rows * self.n, *shape, generator=self.streams)
            return found
        return torch.cat([make(self.n, *shape, generator=stream) for stream in self.streams])
