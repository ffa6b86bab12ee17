"""Data parallelism through ``accelerate``: who does which rows, and sums over processes.

Gradients are sums over samples divided once by the global weight (see :mod:`mmalign.engine.step`),
so any number of processes gives the one-process loss and gradient at an equal global batch.  The
adapters call sub-modules of a model directly, so the gradients are reduced here instead of in
a wrapper around ``forward``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["all_sum", "gather_padded", "make_accelerator", "my_share", "reduce_gradients"]

Item = TypeVar("Item")


def make_accelerator(mixed_precision: str = "no") -> Accelerator:
    """Create the ``Accelerator``; on a CPU, one thread per process unless ``OMP_NUM_THREADS`` says else.

    Two OpenMP threads on a busy two-core machine spin against each other and cost ten times more.
    """
    from accelerate import Accelerator

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return Accelerator(mixed_precision=mixed_precision, cpu=not torch.cuda.is_available())


def my_share(items: Sequence[Item], accelerator: Accelerator | None) -> list[Item]:
    """Return this process's contiguous part of ``items`` (all of them in a one-process run)."""
    if accelerator is None or accelerator.num_processes == 1:
        return list(items)
    count, rank = accelerator.num_processes, accelerator.process_index
    bounds = [len(items) * k // count for k in range(count + 1)]
    return list(items[bounds[rank] : bounds[rank + 1]])


def all_sum(value: Tensor, accelerator: Accelerator | None) -> Tensor:
    """Sum a tensor over all processes."""
    if accelerator is None or accelerator.num_processes == 1:
        return value
    reduced: Tensor = accelerator.reduce(value, reduction="sum")
    return reduced


def reduce_gradients(
    parameters: Iterable[nn.Parameter], total_weight: Tensor, accelerator: Accelerator | None
) -> None:
    """Sum gradients over processes and divide them by the global weight, in place."""
    for parameter in parameters:
        if parameter.grad is None:
            if accelerator is None or accelerator.num_processes == 1:
                continue
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad = all_sum(parameter.grad, accelerator)
        parameter.grad.div_(total_weight.to(parameter.grad.dtype))


def gather_padded(value: Tensor, accelerator: Accelerator | None) -> tuple[Tensor, slice]:
    """Gather ``[B, T]`` tensors of all processes into one, with the slice that is this process's own."""
    if accelerator is None or accelerator.num_processes == 1:
        return value, slice(0, value.shape[0])
    shape = torch.tensor([value.shape[0], value.shape[1]], device=value.device)
    shapes = accelerator.gather(shape).view(-1, 2)
    rows, columns = int(shapes[:, 0].max()), int(shapes[:, 1].max())
    padded = value.new_zeros((rows, columns))
    padded[: value.shape[0], : value.shape[1]] = value
    gathered = accelerator.gather(padded).view(-1, rows, columns)
    parts = [gathered[k, : int(shapes[k, 0])] for k in range(len(shapes))]
    start = sum(len(part) for part in parts[: accelerator.process_index])
    return torch.cat(parts), slice(start, start + value.shape[0])
