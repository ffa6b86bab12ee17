"""First and second moments of what linear layers read, over minibatches of a probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.tuners.definition import Probe

__all__ = ["Moments", "input_moments"]


@dataclass
class Moments:
    """Running sums over input vectors of one layer: how many, their sum ``[n]``, their outer products ``[n, n]``."""

    count: int
    total: Tensor
    outer: Tensor

    def second(self) -> Tensor:
        """``mean x x^T``."""
        return self.outer / self.count

    def covariance(self) -> Tensor:
        """``mean (x - mean)(x - mean)^T``."""
        mean = self.total / self.count
        return self.second() - torch.outer(mean, mean)


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Linear], probe: Probe, batches: int
) -> dict[str, Moments]:
    """Moments of the inputs of ``layers`` in evaluation mode, in float64.

    Raises:
        UserError: for a layer that the probe's forward passes never call.
    """
    sums: dict[str, Moments] = {}

    def hook(name: str) -> Any:
        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().reshape(-1, args[0].shape[-1]).double()
            known = sums.setdefault(
                name, Moments(0, torch.zeros_like(x[0]), x.new_zeros(x.shape[1], x.shape[1]))
            )
            known.count += len(x)
            known.total += x.sum(0)
            known.outer += x.T @ x

        return see

    training = model.training
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        model.eval()
        with torch.no_grad():
            for _ in islice(probe(model), batches):
                pass
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if unseen := [name for name in layers if name not in sums]:
        raise UserError(f"the probe's forward passes never call {unseen[0]}")
    return {name: sums[name] for name in layers}
