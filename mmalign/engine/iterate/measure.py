"""Where the policy stands: reward, distance from the start and length of its answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.iterate.collect import Drawing, draw, sequence_logps
from mmalign.engine.scoring import step_kl
from mmalign.protocols import Likelihood, Samples

if TYPE_CHECKING:
    from mmalign.engine.iterate.snapshot import Snapshot
    from mmalign.types import Rollout, Row

__all__ = ["measured"]


def measured(
    how: Drawing,
    model: nn.Module,
    initial: Snapshot,
    rows: Sequence[Row],
    totals: Callable[[Rollout], Tensor] | None,
    names: tuple[str | int, ...],
) -> dict[str, float]:
    """One answer per row, at the temperature of ``how`` (1, or the KL is not that of the policy).

    A modality that cannot sample is measured on the rows' own answers (``nll`` alone).

    Returns:
        ``kl`` (nats per answer, a sample estimate of KL(policy || start); where the modality scores answers by a
        surrogate, the exact one of their recorded Gaussian steps, or absent), ``completion_length`` (steps),
        ``finished`` (share), ``rewards/mean`` where there is a reward, and ``nll`` per step of the rows' own answers
        where they have some.
    """
    found: dict[str, float] = {}
    if isinstance(how.adapter, Samples):
        rollouts = draw(how, model, rows, 1, names)
        answers = [row for rollout in rollouts for row in rollout.rows]
        kl = _kl(how, model, initial, answers)
        if kl is not None:
            found["kl"] = kl
        steps = torch.cat([rollout.mask.sum(1) for rollout in rollouts])
        found["completion_length"] = float(steps.float().mean())
        found["finished"] = float(torch.cat([rollout.finished for rollout in rollouts]).float().mean())
        if totals is not None:
            found["rewards/mean"] = float(torch.cat([totals(rollout) for rollout in rollouts]).mean())
    own = [row for row in rows if row.completion is not None]
    if own:
        found["nll"] = _nll(how, model, own)
    return found


@torch.no_grad()
def _kl(how: Drawing, model: nn.Module, initial: Snapshot, answers: Sequence[Row]) -> float | None:
    assert isinstance(how.adapter, Likelihood)
    if not _surrogate(how.adapter, model, answers[:1]):
        now = sequence_logps(how.adapter, model, answers, how.chunk)
        with initial.installed(model):
            then = sequence_logps(how.adapter, model, answers, how.chunk)
        return float((now - then).mean())
    if not getattr(how.adapter, "scores_bare_steps", False):
        return None
    bare = [replace(row, completion=None) for row in answers]  # what is left to score are the steps
    total = 0.0
    for start in range(0, len(bare), how.chunk):
        batch = how.adapter.collate(bare[start : start + how.chunk])
        if not batch.mask.any():  # a deterministic sampler
            return None
        new = how.adapter.logp(model, batch)
        with initial.installed(model):
            old = how.adapter.logp(model, batch)
        total += float(step_kl(how.adapter, new, old).sum())
    return total / len(bare)


@torch.no_grad()
def _surrogate(adapter: object, model: nn.Module, rows: Sequence[Row]) -> bool:
    assert isinstance(adapter, Likelihood)
    return adapter.logp(model, adapter.collate(rows)).surrogate


@torch.no_grad()
def _nll(how: Drawing, model: nn.Module, rows: Sequence[Row]) -> float:
    assert isinstance(how.adapter, Likelihood)
    total, steps = 0.0, 0
    for start in range(0, len(rows), how.chunk):
        scored = how.adapter.logp(model, how.adapter.collate(rows[start : start + how.chunk]))
        total -= float(torch.where(scored.mask, scored.values, 0.0).sum())
        steps += int(scored.mask.sum())
    return total / max(1, steps)
