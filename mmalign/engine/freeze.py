"""Which parameters train: everything but what matches a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from mmalign.config.tuner import CONTAINER
from mmalign.errors import UserError

__all__ = ["count_parameters", "freeze"]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Set ``requires_grad`` to false for parameters whose name matches one of the shell patterns.

    What a tuner of :mod:`mmalign.tuners` brought trains wherever it stands: its scope says where.

    Raises:
        UserError: when nothing is left to train.
    """
    for name, parameter in model.named_parameters():
        if f".{CONTAINER}." not in name and any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"model.freeze {list(patterns)} leaves no parameter to train")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return ``(trainable, all)`` parameter counts."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
