"""Run rows through a trunk and take out what the heads read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.rewards.fgaif.data import segment_rows
from mmalign.rewards.fgaif.heads import Read, read_segments
from mmalign.types import Row

__all__ = ["read_completions", "read_verifications"]

Spans = list[tuple[int, int]]


def read_completions(
    adapter: Likelihood, trunk: nn.Module, rows: Sequence[Row], read: Read, batch_size: int | None
) -> list[Tensor]:
    """Features of every row's segments, each row's answer read in one pass.

    Args:
        adapter: the modality's adapter.
        trunk: the model that reads.
        rows: rows with at least one segment each.
        read: what is taken from the answer, see ``heads``.
        batch_size: rows per pass, or ``None`` for all at once.

    Returns:
        One tensor ``[segments, F]`` per row.
    """
    spans = [[(segment.start, segment.end) for segment in row.segments] for row in rows]
    return _passes(adapter, trunk, rows, spans, read, batch_size)


def read_verifications(
    adapter: Likelihood,
    trunk: nn.Module,
    rows: Sequence[Row],
    template: str,
    answer: str,
    batch_size: int | None,
) -> list[Tensor]:
    """The state at the end of a verification prompt per segment; equal (media, text) pairs run once.

    Args:
        adapter: the modality's adapter.
        trunk: the model that reads.
        rows: rows with at least one segment each.
        template: verification prompt with ``{segment}``.
        answer: fixed completion; the state before its first step is taken.
        batch_size: rows per pass, or ``None`` for all at once.

    Returns:
        One tensor ``[segments, H]`` per row.
    """
    units = segment_rows(rows, template, answer)
    states = torch.cat(_passes(adapter, trunk, units.rows, [[(0, 0)]] * len(units.rows), "state", batch_size))
    every = states[torch.tensor(units.index, device=states.device)]
    return list(every.split([len(row.segments) for row in rows]))


def _passes(
    adapter: Likelihood,
    trunk: nn.Module,
    rows: Sequence[Row],
    spans: Sequence[Spans],
    read: Read,
    batch_size: int | None,
) -> list[Tensor]:
    """Run rows of similar length together; the features of each row's spans, in the given order."""
    order = sorted(range(len(rows)), key=lambda i: len(str(rows[i].prompt)) + len(str(rows[i].completion)))
    size = batch_size or max(len(order), 1)
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), size):
        picked = order[start : start + size]
        batch = adapter.collate([rows[i] for i in picked])
        out = adapter.logp(trunk, batch, hidden=True, entropy=read == "surprise")
        if out.hidden is None:
            raise UserError(f"modality {adapter.name!r} gives no hidden states, which a reward model reads.")
        for b, i in enumerate(picked):
            n = int(out.mask[b].sum())
            if max(end for _, end in spans[i]) > n:
                raise UserError(f"row {rows[i].id!r}: a segment ends behind the answer's {n} steps.")
            entropy = None if out.entropy is None else out.entropy[b, :n]
            hidden = out.hidden[b, : n + 1].float()
            found[i] = read_segments(read, spans[i], hidden, out.values[b, :n], entropy)
    return [found[i] for i in range(len(rows))]
