"""One optimisation step: micro-batches in, one clipped update out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.parallel import all_sum, reduce_gradients
from mmalign.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Loss", "optimisation_step"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A mean over ``weight`` things (steps, segments, pairs), with metrics averaged the same way.

    The engine back-propagates ``value * weight`` and divides by the global weight once, so neither
    the number of micro-batches nor the number of processes changes the update.
    """

    value: Tensor
    weight: float
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)


def optimisation_step(
    losses: Iterable[Callable[[], Loss]],
    optimizer: torch.optim.Optimizer,
    *,
    max_grad_norm: float,
    where: str,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """Run the micro-batches, reduce over processes, clip and update; return the mean metrics.

    Args:
        losses: one thunk per micro-batch of this process; called in order, freed one by one.
        optimizer: updates its own parameters.
        max_grad_norm: global gradient norm bound; 0 means no clipping.
        where: names stage and step in the error message.
        accelerator: for several processes.

    Returns:
        ``loss``, ``grad_norm`` and the weighted means of the metrics.

    Raises:
        UserError: when the loss or the gradient is not finite; the parameters are left untouched.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    weight = 0.0
    for make in losses:
        loss = make()
        weight += loss.weight
        _add(sums, "loss", float(loss.value.detach()) * loss.weight)
        for name, value in loss.metrics.items():
            _add(sums, name, float(value) * loss.weight)
        if loss.value.requires_grad and loss.weight:
            (loss.value * loss.weight).backward()
    names = sorted(sums)
    device = parameters[0].device
    totals = torch.tensor([weight, *(sums[name] for name in names)], dtype=torch.float64, device=device)
    totals = all_sum(totals, accelerator)
    if not float(totals[0]):
        return {"loss": 0.0, "grad_norm": 0.0}
    metrics = {name: float(value) for name, value in zip(names, totals[1:] / totals[0], strict=True)}
    reduce_gradients(parameters, totals[0], accelerator)
    metrics["grad_norm"] = _clip(parameters, max_grad_norm)
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            optimizer.zero_grad(set_to_none=True)
            raise UserError(
                f"{where}: {name} became {metrics[name]}; no update was made and the last checkpoint is intact, "
                "lower the learning rate or look at this step's rows"
            )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return metrics


def _clip(parameters: list[nn.Parameter], max_grad_norm: float) -> float:
    bound = max_grad_norm if max_grad_norm > 0 else float("inf")
    return float(torch.nn.utils.clip_grad_norm_(parameters, bound))


def _add(sums: dict[str, float], name: str, value: float) -> None:
    sums[name] = sums.get(name, 0.0) + value
