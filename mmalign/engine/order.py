"""Which rows a step sees: a pure function of the seed and the step, so the data position is the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mmalign.errors import UserError
from mmalign.rng import numpy_generator

__all__ = ["rows_for_step"]

Item = TypeVar("Item")


def rows_for_step(items: Sequence[Item], batch_size: int, step: int, *, seed: int, stage: str) -> list[Item]:
    """Return the global batch of ``step`` (1-based): a new permutation each epoch, nothing dropped.

    A batch may span two epochs, so every step has exactly ``batch_size`` items.

    Raises:
        UserError: when there are no items.
    """
    if not items:
        raise UserError(f"stage {stage}: there are no rows to train on")
    batch: list[Item] = []
    position = (step - 1) * batch_size
    while len(batch) < batch_size:
        epoch, offset = divmod(position, len(items))
        order = numpy_generator(seed, stage, "order", epoch).permutation(len(items))
        take = min(batch_size - len(batch), len(items) - offset)
        batch.extend(items[int(k)] for k in order[offset : offset + take])
        position += take
    return batch
