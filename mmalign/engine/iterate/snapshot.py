"""Earlier weights of a policy, kept as tensors and swapped in for a while: references without a second model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mmalign.protocols import Likelihood
    from mmalign.types import Batch

__all__ = ["Snapshot", "SnapshotReference"]


class Snapshot(nn.Module):
    """A copy of the parameters that train, made now; a checkpoint holds it like any module.

    With LoRA only the adapter's weights are copied.

    Args:
        model: the policy; which of its parameters train must not change afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in _trainable(model)])

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Become the model's present weights."""
        for mine, now in zip(self.values, _trainable(model), strict=True):
            mine.copy_(now)

    @torch.no_grad()
    def average(self, model: nn.Module, decay: float) -> None:
        """Become ``decay * old + (1 - decay) * present``."""
        for mine, now in zip(self.values, _trainable(model), strict=True):
            mine.mul_(decay).add_(now, alpha=1 - decay)

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Let the model have these weights for a while; nothing is copied, storages change places.

        A graph built before stays valid: the weights are back when gradients are computed.
        """
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def _swap(self, model: nn.Module) -> None:
        for mine, now in zip(self.values, _trainable(model), strict=True):
            mine.data, now.data = now.data, mine.data


class SnapshotReference:
    """Scores batches under a snapshot of the policy; draws from ``rng`` as the policy itself would.

    Args:
        adapter: the modality.
        model: the policy that lends its body.
        snapshot: the weights to score with.
    """

    def __init__(self, adapter: Likelihood, model: nn.Module, snapshot: Snapshot) -> None:
        self._adapter, self._model, self._snapshot = adapter, model, snapshot

    @torch.no_grad()
    def logp(self, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """Log-probabilities ``[B, T]`` in nats of the batch's answers."""
        with self._snapshot.installed(self._model):
            return self._adapter.logp(self._model, batch, rng).values


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
