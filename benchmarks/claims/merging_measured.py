"""What the claims about merging share: tasks of a suite in memory, and the accuracy of a state on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.transfer.fitting import Examples, predictions
from mmalign.rng import generator
from mmalign.tuners.backbones import normalisation

if TYPE_CHECKING:
    from mmalign.engine.transfer.task import TaskRun
    from mmalign.pipeline.context import RunContext

__all__ = ["accuracy", "opened", "shifted", "state_of"]

CONTRAST, NOISE = 0.6, 0.12
"""The shift: contrast about mid-grey, and the standard deviation of noise, in pictures from 0 to 1."""


def opened(ctx: RunContext, names: Sequence[str]) -> list[TaskRun]:
    """Tasks of the configured suite by name."""
    from mmalign.engine.transfer.task import TaskRun
    from mmalign.pipeline.stages.transfer import open_suite

    suite = open_suite(ctx.cfg.transfer)
    known = {task.name: task for task in suite.tasks()}
    return [TaskRun.of(ctx.cfg.transfer, suite, known[name]) for name in names]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def accuracy(model: nn.Module, state: Mapping[str, Tensor], data: Examples) -> float:
    """Top-1 of ``model`` with ``state`` loaded over its weights (names that are missing stay), from 0 to 1."""
    model.load_state_dict(dict(state), strict=False)
    return float((predictions(model, data.x) == data.y).double().mean())


def shifted(data: Examples, model: nn.Module, seed: int) -> Examples:
    """The same pictures with less contrast and with noise; ``data`` is normalised for ``model`` and stays so."""
    mean, std = normalisation(model)
    plain = data.x * std + mean
    noise = torch.randn(plain.shape, generator=generator(seed, "claims", "shift"))
    moved = (0.5 + CONTRAST * (plain - 0.5) + NOISE * noise).clamp(0.0, 1.0)
    return Examples((moved - mean) / std, data.y)
