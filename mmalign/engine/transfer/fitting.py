"""One fit of one model on one task held in memory, and how good it is: functions of tensors, no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.engine.optim import learning_rate_factor, make_optimizer, set_learning_rates
from mmalign.errors import UserError
from mmalign.protocols.transfer import IGNORE, TransferData
from mmalign.rng import derive_seed, generator

__all__ = [
    "Examples",
    "FitPlan",
    "FitResult",
    "Objective",
    "fit",
    "mean_iou",
    "predictions",
    "score",
    "stacked",
    "supervised",
]

Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""``(model, x, y, index) -> loss``; ``index [B]`` says which examples they are."""
Groups = tuple[Mapping[str, Iterable[nn.Parameter]], Mapping[str, float]]
"""Parameter groups by name and the learning rate of each."""


@dataclass(frozen=True)
class Examples:
    """A split in memory.

    Args:
        x: inputs ``[N, ...]``.
        y: labels ``[N]``, or label maps ``[N, H, W]``.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def joined(self, other: Examples) -> Examples:
        """These examples, then the other's."""
        return Examples(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]))


@dataclass(frozen=True)
class FitPlan:
    """How one fit runs.

    Args:
        learning_rate: AdamW's peak rate.
        epochs: passes over the examples.
        batch_size: examples per step; the last batch of a pass may be smaller, but never a single example.
        weight_decay: AdamW's.
        warmup_ratio: share of the steps with a rising rate; then it falls along a cosine to a tenth.
        seed: of the order and of dropout.
        stream: names of the random streams.
    """

    learning_rate: float
    epochs: int = 10
    batch_size: int = 50
    weight_decay: float = 1e-4
    warmup_ratio: float = 0.1
    seed: int = 0
    stream: tuple[str, ...] = ("transfer",)


@dataclass(frozen=True)
class FitResult:
    """What a fit left behind beside the weights: mean loss per epoch, optimiser steps, CPU seconds."""

    losses: tuple[float, ...]
    steps: int
    cpu_seconds: float

    @property
    def is_finite(self) -> bool:
        """Whether every epoch's loss is a number (a rate that is too high ends in none)."""
        return all(math.isfinite(loss) for loss in self.losses)


def stacked(data: TransferData) -> Examples:
    """A split as two tensors; done once, so that no fit loads anything.

    Raises:
        UserError: when it is empty or its inputs differ in shape.
    """
    pairs = [data[k] for k in range(len(data))]
    if not pairs:
        raise UserError("transfer: a split without a single example")
    shapes = {tuple(x.shape) for x, _ in pairs}
    if len(shapes) > 1:
        raise UserError(f"transfer: inputs of one split differ in shape: {sorted(shapes)[:3]}")
    return Examples(torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs]))


def supervised(model: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """Mean cross-entropy over examples ``[B]`` or over the pixels ``[B, H, W]`` that count."""
    return F.cross_entropy(model(x), y, ignore_index=IGNORE)


def fit(
    model: nn.Module,
    data: Examples,
    plan: FitPlan,
    *,
    objective: Objective = supervised,
    groups: Groups | None = None,
) -> FitResult:
    """Train what has ``requires_grad`` and leave the model in evaluation mode.

    Depends on the model, the data, the plan and nothing else.

    Args:
        model: is changed in place.
        data: the training examples.
        plan: rate, epochs, order.
        objective: cross-entropy by default.
        groups: parameter groups and their rates; by default one group at ``plan.learning_rate``.

    Raises:
        UserError: when nothing trains.
    """
    parameters, rates = groups or ({"all": list(model.parameters())}, {"all": plan.learning_rate})
    optimizer = make_optimizer(parameters, rates, plan.weight_decay, fused=True)
    if not any(group["params"] for group in optimizer.param_groups):
        raise UserError("transfer: nothing of this model trains")
    batches = _batches(len(data), plan.batch_size)
    total, losses, step = plan.epochs * len(batches), [], 0
    began = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(plan.seed, *plan.stream, "fit"))
        model.train()
        for epoch in range(plan.epochs):
            order = torch.randperm(len(data), generator=generator(plan.seed, *plan.stream, "order", epoch))
            whole = torch.zeros(())
            for start, stop in batches:
                step += 1
                index = order[start:stop]
                set_learning_rates(optimizer, learning_rate_factor(step, total, plan.warmup_ratio))
                loss = objective(model, data.x[index], data.y[index], index)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                whole += loss.detach() * len(index)
            losses.append(float(whole) / len(data))
    model.eval()
    return FitResult(tuple(losses), step, time.process_time() - began)


@torch.no_grad()
def predictions(model: nn.Module, x: Tensor, batch_size: int = 250) -> Tensor:
    """The most probable class, ``[N]`` or ``[N, H, W]``, in evaluation mode."""
    training = model.training
    model.eval()
    found = [model(x[start : start + batch_size]).argmax(1) for start in range(0, len(x), batch_size)]
    model.train(training)
    return torch.cat(found)


def score(model: nn.Module, data: Examples, classes: int) -> float:
    """Top-1 accuracy of labels, mean intersection over union of label maps; from 0 to 1."""
    found = predictions(model, data.x)
    if data.y.ndim == 1:
        return float((found == data.y).double().mean())
    return mean_iou(found, data.y, classes)


def mean_iou(predicted: Tensor, truth: Tensor, classes: int) -> float:
    """Intersection over union of each class that the truth holds, over all pixels that count, averaged.

    Raises:
        UserError: when no pixel counts.
    """
    counts = truth != IGNORE
    pairs = torch.bincount(truth[counts] * classes + predicted[counts], minlength=classes**2)
    table = pairs.view(classes, classes).double()
    present = table.sum(1) > 0
    if not present.any():
        raise UserError("transfer: no pixel of this split has a label")
    both = table.diagonal()
    return float((both / (table.sum(0) + table.sum(1) - both).clamp(min=1))[present].mean())


def _batches(n: int, size: int) -> list[tuple[int, int]]:
    """Where batches begin and end; a last single example joins the batch before it (BatchNorm cannot take it)."""
    edges = [*range(0, n, size), n]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    return list(pairwise(edges))
