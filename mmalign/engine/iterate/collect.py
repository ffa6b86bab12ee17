"""Candidates of a round: the policy's answers, and for Nash-MD answers of its mixture with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.objectives.masked import masked_sum
from mmalign.objectives.nash import mixture_log_weights
from mmalign.protocols import Likelihood, Samples
from mmalign.rng import generator
from mmalign.types import Rollout

if TYPE_CHECKING:
    from mmalign.engine.iterate.snapshot import Snapshot
    from mmalign.types import Row

__all__ = ["Drawing", "draw", "draw_mixture", "sequence_logps", "taken"]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How answers are drawn; the draw of a chunk depends on seed, names and its place only.

    Args:
        adapter: a modality with ``Likelihood`` and ``Samples``.
        seed: the run's seed.
        temperature: of sampling.
        max_steps: longest answer, in steps.
        chunk: prompts answered at once.
    """

    adapter: object
    seed: int
    temperature: float
    max_steps: int
    chunk: int


def draw(
    how: Drawing, model: nn.Module, rows: Sequence[Row], n: int, names: tuple[str | int, ...]
) -> list[Rollout]:
    """``n`` answers per row, one rollout per chunk of rows, row-major within it."""
    assert isinstance(how.adapter, Samples)
    model.eval()
    return [
        how.adapter.sample(
            model,
            rows[start : start + how.chunk],
            n,
            generator(how.seed, *names, start),
            temperature=how.temperature,
            max_steps=how.max_steps,
        )
        for start in range(0, len(rows), how.chunk)
    ]


def draw_mixture(
    how: Drawing,
    model: nn.Module,
    reference: Snapshot,
    rows: Sequence[Row],
    n: int,
    share: float,
    names: tuple[str | int, ...],
) -> tuple[list[Rollout], float]:
    """``n`` answers per row of the geometric mixture ``policy^(1-c) reference^c``, by resampling.

    Half of ``2 n`` proposals come from the policy and half from the reference; ``n`` of them are kept with
    probabilities proportional to the bounded weights of
    :func:`~mmalign.objectives.nash.mixture_log_weights`.  This needs sampling and likelihood alone, so it serves
    every modality; it is exact as ``n`` grows.  ``share`` 0 draws from the policy.

    Returns:
        the rollouts, and the mean effective share of the proposals (1 when all weigh the same).
    """
    if share == 0:
        return draw(how, model, rows, n, (*names, "policy")), 1.0
    ours = draw(how, model, rows, n, (*names, "policy"))
    with reference.installed(model):
        theirs = draw(how, model, rows, n, (*names, "reference"))
    mixed, effective = [], []
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        weights = []
        for rollout in (one, other):
            now = sequence_logps(how.adapter, model, rollout.rows, how.chunk)
            with reference.installed(model):
                then = sequence_logps(how.adapter, model, rollout.rows, how.chunk)
            weights.append(mixture_log_weights(now, then, share).view(-1, n))
        probs = torch.softmax(torch.cat(weights, 1), 1)
        effective.append(1.0 / (probs.square().sum(1) * 2 * n))
        kept = torch.multinomial(
            probs.cpu(), n, replacement=True, generator=generator(how.seed, *names, "kept", place)
        )
        mixed.append(_kept(one, other, kept))
    return mixed, float(torch.cat(effective).mean())


@torch.no_grad()
def sequence_logps(adapter: object, model: nn.Module, rows: Sequence[Row], chunk: int) -> Tensor:
    """Log-probability of each answer, ``[N]`` nats, summed over its steps.

    Raises:
        UserError: where the modality scores these answers by a surrogate.
    """
    assert isinstance(adapter, Likelihood)
    parts = []
    for start in range(0, len(rows), chunk):
        scored = adapter.logp(model, adapter.collate(rows[start : start + chunk]))
        if scored.surrogate:
            raise UserError(
                f"modality {getattr(adapter, 'name', '')!r} has no log-probability of these answers"
            )
        parts.append(masked_sum(scored.values, scored.mask, 1) * scored.nats)
    return torch.cat(parts)


def taken(rollout: Rollout, places: Sequence[int]) -> Rollout:
    """The answers of a rollout at ``places``, in that order."""
    index = torch.tensor(list(places), device=rollout.mask.device)
    return Rollout(
        tuple(rollout.rows[k] for k in places),
        rollout.logp[index],
        rollout.mask[index],
        rollout.finished[index],
        rollout.group[index],
    )


def _kept(one: Rollout, other: Rollout, kept: Tensor) -> Rollout:
    """Column ``k`` of ``kept`` below ``n`` is the row's draw ``k`` of ``one``, above it of ``other``."""
    n = kept.shape[1]
    places = [(row * n + k % n) + (k >= n) * len(one) for row, line in enumerate(kept.tolist()) for k in line]
    width = max(one.mask.shape[1], other.mask.shape[1])

    def joined(name: str) -> Tensor:
        parts = [getattr(rollout, name) for rollout in (one, other)]
        return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])

    both = Rollout(
        (*one.rows, *other.rows),
        joined("logp"),
        joined("mask"),
        torch.cat([one.finished, other.finished]),
        torch.cat([one.group, other.group]),
    )
    return taken(both, places)
