"""Small comparisons with messages a plug-in author can act on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmalign.protocols import Likelihood
from mmalign.rng import generator
from mmalign.types import LogP, Row

__all__ = ["TOLERANCE", "close", "logp_of", "require", "same_rows_alone"]

TOLERANCE = 1e-5
"""Largest difference in nats between two ways to score one step."""


def require(holds: bool, message: str) -> None:
    """Raise ``AssertionError`` with ``message`` unless ``holds``."""
    if not holds:
        raise AssertionError(message)


def close(a: Tensor, b: Tensor, message: str, tolerance: float = TOLERANCE) -> None:
    """Require two tensors of one shape to differ by at most ``tolerance`` (relative above 1)."""
    require(a.shape == b.shape, f"{message}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    if a.numel() == 0:
        return
    gap = float(((a - b).abs() / b.abs().clamp(min=1.0)).max())
    require(gap <= tolerance, f"{message}: largest difference {gap:.2e}, allowed {tolerance:.0e}")


@torch.no_grad()
def logp_of(adapter: Likelihood, model: nn.Module, rows: Sequence[Row], temperature: float = 1.0) -> LogP:
    """Score rows without gradient, under one fixed random stream."""
    return adapter.logp(
        model,
        adapter.collate(rows),
        generator(0, "conformance"),
        entropy=True,
        hidden=True,
        temperature=temperature,
    )


def same_rows_alone(adapter: Likelihood, model: nn.Module, rows: Sequence[Row], together: LogP) -> None:
    """Require each row's scores in a batch to equal those of the row alone.

    A random score (a surrogate) draws row by row: there the first row of a batch must score as it does alone.
    """
    if together.surrogate:
        for place, row in enumerate(rows):
            first = logp_of(adapter, model, [row, *rows[:place], *rows[place + 1 :]])
            message = f"row {row.id}: the score of the first row depends on the rows behind it"
            alone = logp_of(adapter, model, [row])
            close(first.values[0][first.mask[0]], alone.values[0][alone.mask[0]], message)
        return
    for place, row in enumerate(rows):
        alone = logp_of(adapter, model, [row])
        steps = int(alone.mask.sum())
        require(
            int(together.mask[place].sum()) == steps,
            f"row {row.id}: {int(together.mask[place].sum())} steps in a batch, {steps} alone",
        )
        close(
            together.values[place, :steps],
            alone.values[0, :steps],
            f"row {row.id}: logp in a batch against alone (is padding masked?)",
        )
